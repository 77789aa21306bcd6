"""Who uses a data directory: one server alone, or those of one PostgreSQL. A lock file that dies with its process."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from orchestrator.errors import DataDirLockedError
from orchestrator.storage.failures import file_errors

LOCK_FILE: Final = "lock"
# While another server starts up; recovering from a crash reads two listings and removes what nobody knows.
START_WAIT_S: Final = 60.0
START_POLL_S: Final = 0.05


class DataDirHold:
    """A server's hold on its data directory.

    is_alone: no other server had the directory when this one came. None can come until `settle` is called, or ever
    where the directory is not shared, so that whatever is found unfinished is nobody's.
    """

    def __init__(self, descriptor: int, *, is_alone: bool, is_shared: bool) -> None:
        self.is_alone = is_alone
        self._descriptor = descriptor
        self._is_shared = is_shared

    async def settle(self) -> None:
        """After start-up: let others in, if the directory is shared."""
        if self._is_shared and self.is_alone:
            # The kernel gives up one lock before it takes the other. Who comes in between finds itself alone, which is
            # true as yet: we have not begun to work, and wait here for the end of its start-up.
            await _wait_for(self._descriptor)


@contextmanager
def locked_data_dir(data_dir: Path) -> Iterator[DataDirHold]:
    """Make the directory where it is missing, and hold its lock alone.

    Raises DataDirLockedError, naming the process that holds it; StorageError where the directory cannot be made.
    """
    with _open_lock(data_dir) as descriptor:
        if not _is_taken(descriptor, fcntl.LOCK_EX):
            raise _locked(descriptor, data_dir)
        _sign(descriptor)
        yield DataDirHold(descriptor, is_alone=True, is_shared=False)


@asynccontextmanager
async def shared_data_dir(data_dir: Path, *, start_wait_s: float = START_WAIT_S) -> AsyncIterator[DataDirHold]:
    """As `locked_data_dir`, beside other servers that share it; waits for one that is just starting up."""
    with _open_lock(data_dir) as descriptor:
        is_alone = _is_taken(descriptor, fcntl.LOCK_EX)
        if is_alone:
            _sign(descriptor)
        else:
            try:
                async with asyncio.timeout(start_wait_s):
                    await _wait_for(descriptor)
            except TimeoutError:
                raise _locked(descriptor, data_dir) from None
        yield DataDirHold(descriptor, is_alone=is_alone, is_shared=True)


@contextmanager
def _open_lock(data_dir: Path) -> Iterator[int]:
    with file_errors():
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        # The file stays: removing it would let two processes lock two files of one name.
        os.close(descriptor)


def _is_taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _wait_for(descriptor: int) -> None:
    """Take the lock in the way that servers share it."""
    while not _is_taken(descriptor, fcntl.LOCK_SH):  # noqa: ASYNC110  # another process sets no event
        # The kernel's own wait could not be cancelled.
        await asyncio.sleep(START_POLL_S)


def _sign(descriptor: int) -> None:
    with file_errors():
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _locked(descriptor: int, data_dir: Path) -> DataDirLockedError:
    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
    return DataDirLockedError(
        f"{data_dir} is in use by the server with process id {holder}; stop it, or set TRIREEL_DATA_DIR"
    )
