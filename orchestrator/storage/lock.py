"""One server a data directory: a lock file that dies with its process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.errors import DataDirLockedError
from orchestrator.storage.failures import file_errors

LOCK_FILE: Final = "lock"


@contextmanager
def locked_data_dir(data_dir: Path) -> Iterator[None]:
    """Make the directory where it is missing, and hold its lock.

    Raises DataDirLockedError, naming the process that holds it; StorageError where the directory cannot be made.
    """
    with file_errors():
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(descriptor, data_dir)
        yield
    finally:
        # The file stays: removing it would let two processes lock two files of one name.
        os.close(descriptor)


def _take(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise DataDirLockedError(
            f"{data_dir} is in use by the server with process id {holder}; stop it, or set TRIREEL_DATA_DIR"
        ) from exc
    with file_errors():
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
