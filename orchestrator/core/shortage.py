"""What the machine lacks at the moment passes, and says nothing about a file, a decoder or our code."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from orchestrator.errors import DecoderUnavailableError

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


def is_shortage(exc: BaseException) -> bool:
    """Whether descriptors or memory ran out, and nothing else happened in a group."""
    if isinstance(exc, BaseExceptionGroup):
        return all(is_shortage(member) for member in exc.exceptions)
    return isinstance(exc, OSError) and exc.errno in SHORTAGES


@contextmanager
def shortage_errors() -> Iterator[None]:
    """Raises DecoderUnavailableError where descriptors or memory ran out; other errors pass through."""
    try:
        yield
    except OSError as exc:
        if not is_shortage(exc):
            raise
        raise DecoderUnavailableError(f"the server has no resources left for a decoder ({exc.strerror})") from exc
