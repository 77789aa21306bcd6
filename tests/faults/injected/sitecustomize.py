"""Counts the calls of a program that make shared memory, and strikes one; see `tests.faults.memory_calls`.

Every Python imports this by itself before anything else, where this folder is in PYTHONPATH.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ORDER: Final = Path(os.environ["FAULTS_MEMORY_ORDER"])
SHARED_MEMORY: Final = "/dev/shm"


def is_struck() -> str | None:
    """How, where it is this call's turn."""
    try:
        left, manner = ORDER.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return None
    if int(left) > 1:
        ORDER.write_text(f"{int(left) - 1} {manner}", encoding="ascii")
        return None
    ORDER.unlink()
    return manner


def counted(call: Callable[..., Any], *, counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    def instead(*args: Any, **kwargs: Any) -> Any:
        manner = is_struck() if counts(*args) else None
        if manner is None:
            return call(*args, **kwargs)
        sys.stderr.write(f"struck: {call.__name__}\n")
        sys.stderr.flush()
        if manner == "FAILS":
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if manner == "LAST":
            call(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    return instead


os.memfd_create = counted(os.memfd_create)
os.posix_fallocate = counted(os.posix_fallocate)
os.link = counted(os.link, counts=lambda _, target, **__: os.fspath(target).startswith(SHARED_MEMORY))
os.open = counted(os.open, counts=lambda path, *_: path == Path(SHARED_MEMORY))
