"""Slots: room for batches of letterboxed frames in one region of shared memory, of fixed size from the start.

A slot has one owner at a time: nobody, the child that fills it, or the code that infers its batch.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import mmap
import os
import re
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import SharedMemoryFullError
from orchestrator.telemetry import Metrics

SHARED_MEMORY: Final = Path("/dev/shm")
NAME_PREFIX: Final = "trireel_"
REGION_NAME: Final = re.compile(rf"{NAME_PREFIX}\d+_[0-9a-f]+")
# Nothing there, nothing to be written, or no file system that makes a file without a name.
NO_SHARED_MEMORY: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP, errno.EISDIR}
)


@dataclass(frozen=True, slots=True)
class Region:
    """Shared memory of `byte_size` bytes behind `fd`. key: its POSIX name, None where other programs cannot open it."""

    fd: int
    key: str | None
    byte_size: int


class SlotPool:
    """Lends slots, first come, first served. Belongs to one event loop.

    key: POSIX name of the region for Triton, None if it has none. fd: of the region. slot_bytes: size of each slot.
    """

    def __init__(self, region: Region, *, count: int, slot_bytes: int, metrics: Metrics) -> None:
        self._region = region
        self._bytes = np.frombuffer(mmap.mmap(region.fd, region.byte_size), dtype=np.uint8)
        self._free = deque(range(count))
        self._lent: set[int] = set()
        self._waiters: deque[asyncio.Future[int]] = deque()
        self._metrics = metrics
        self.count = count
        self.slot_bytes = slot_bytes
        metrics.slots_free.set(count)

    @property
    def key(self) -> str | None:
        return self._region.key

    @property
    def fd(self) -> int:
        return self._region.fd

    @property
    def byte_size(self) -> int:
        return self._region.byte_size

    @property
    def free_count(self) -> int:
        return len(self._free)

    async def lease(self) -> int:
        """Wait for a slot; those who wait longest are served first."""
        slot = self.try_lease()
        if slot is not None:
            return slot
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self.give_back(waiter.result())
            elif waiter in self._waiters:
                # Whoever gave a slot back a moment ago may have passed it over already.
                self._waiters.remove(waiter)
            raise

    def try_lease(self) -> int | None:
        """A slot that is free now and that nobody waits for."""
        if not self._free:
            return None
        slot = self._free.popleft()
        self._lent.add(slot)
        self._metrics.slots_free.set(len(self._free))
        return slot

    def give_back(self, slot: int) -> None:
        """Let somebody else have the slot. Raises ValueError if it is not lent."""
        if slot not in self._lent:
            raise ValueError(f"slot {slot} is not lent; it was given back twice or never taken")
        self._lent.remove(slot)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._lent.add(slot)
                waiter.set_result(slot)
                return
        self._free.append(slot)
        self._metrics.slots_free.set(len(self._free))

    def offset(self, slot: int) -> int:
        """Where the slot begins in the region, in bytes."""
        return slot * self.slot_bytes

    def view(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The first bytes of a slot as uint8 of `shape`, in place. Raises ValueError if it does not fit."""
        size = int(np.prod(shape))
        if not 0 < size <= self.slot_bytes or not 0 <= slot < self.count:
            raise ValueError(f"{shape} bytes do not fit into slot {slot} of {self.count} with {self.slot_bytes} bytes")
        start = self.offset(slot)
        return self._bytes[start : start + size].reshape(shape)


@contextmanager
def open_slots(*, count: int, slot_bytes: int, metrics: Metrics) -> Iterator[SlotPool]:
    """Allocate all slots at once. Raises SharedMemoryFullError, so that no write can ever fail for lack of memory."""
    if count < 1 or slot_bytes < 1:
        raise ValueError(f"{count} slots of {slot_bytes} bytes hold nothing")
    remove_stale_regions()
    # Slots begin on pages of their own: a batch then never shares one with its neighbour.
    slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    byte_size = count * slot_bytes
    with _open_region(byte_size) as region:
        with _room_errors(byte_size):
            pool = SlotPool(region, count=count, slot_bytes=slot_bytes, metrics=metrics)
        yield pool


def remove_stale_regions() -> None:
    """Remove the regions of orchestrators that died without doing so themselves.

    The lock alone tells: in a container a pid says nothing, since each program gets the one of the program before it.
    """
    with suppress(FileNotFoundError, PermissionError):
        for path in SHARED_MEMORY.iterdir():
            if REGION_NAME.fullmatch(path.name) and not _is_locked(path):
                with suppress(FileNotFoundError):
                    path.unlink()


@contextmanager
def _open_region(byte_size: int) -> Iterator[Region]:
    """Memory with a name or, where there is no /dev/shm, without: decoders can fill it then, Triton cannot open it."""
    path = SHARED_MEMORY / f"{NAME_PREFIX}{os.getpid()}_{secrets.token_hex(8)}"
    with ExitStack() as stack:
        with _room_errors(byte_size):
            fd, has_name = _open_memory()
            stack.callback(os.close, fd)
            # Without this a full /dev/shm shows only when a slot is written to, as SIGBUS.
            os.posix_fallocate(fd, 0, byte_size)
            if has_name:
                # Held by this process and its children, and before the name is there for others to find.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stack.callback(path.unlink, missing_ok=True)
                # Python follows the link only if given a descriptor of a folder, which an absolute path has no use for.
                os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
        yield Region(fd, f"/{path.name}" if has_name else None, byte_size)


def _open_memory() -> tuple[int, bool]:
    """A descriptor of empty memory, and whether it can be given a name."""
    try:
        return os.open(SHARED_MEMORY, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600), True
    except OSError as exc:
        if exc.errno not in NO_SHARED_MEMORY:
            raise
    return os.memfd_create("trireel_slots", os.MFD_CLOEXEC), False


@contextmanager
def _room_errors(byte_size: int) -> Iterator[None]:
    """Raises SharedMemoryFullError where memory, or room for its name, ran out."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        raise SharedMemoryFullError(
            f"shared memory has no room for {byte_size} bytes of slots; enlarge /dev/shm (in Docker: shm_size), "
            "or lower TRIREEL_DECODERS or TRIREEL_BATCH_FRAMES"
        ) from exc


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        # Not ours to open, so not ours to remove.
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
