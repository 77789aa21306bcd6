"""What the machine lacks at the moment passes, and says nothing about a file or a decoder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from orchestrator.errors import DecoderUnavailableError

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


@contextmanager
def shortage_errors() -> Iterator[None]:
    """Raises DecoderUnavailableError where descriptors or memory ran out; other errors pass through."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in SHORTAGES:
            raise
        raise DecoderUnavailableError(f"the server has no resources left for a decoder ({exc.strerror})") from exc
