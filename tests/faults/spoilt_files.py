"""File calls of this process that fail: Python tells an audit hook of each before it happens, and obeys its refusal.

So nothing of ours is patched, and what is refused is the very `open`, `rename` or `unlink` of the real code. Of `fsync`
no hook is told, so that one is replaced. What libraries write from C is limited in size instead, by the kernel.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.core.types import Candidates
from orchestrator.ports import CandidateArchive
from tests.faults.counted_calls import CallCounter

FSYNC: Final = os.fsync
EVENTS: Final = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"})


@dataclass(frozen=True, slots=True)
class _Watch:
    folder: str
    counter: CallCounter

    def notice(self, event: str, args: tuple[Any, ...]) -> None:
        """Raises what the counter says."""
        if event in EVENTS and isinstance(args[0], str | os.PathLike):
            path = os.fspath(args[0])
            if isinstance(path, str) and path.startswith(self.folder):
                # Ids differ from run to run.
                self.counter.enter(f"{event} of {os.path.basename(path)}")

    def sync(self, fd: int) -> None:
        """Instead of `os.fsync`."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.startswith(self.folder):
            self.counter.enter(f"fsync of {os.path.basename(path)}")
        FSYNC(fd)


# A hook stays for the life of the interpreter, so there is one, and it mostly has nothing to do.
_watches: Final[list[_Watch]] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    for watch in _watches:
        watch.notice(event, args)


_hooks: Final[list[object]] = []


@contextmanager
def spoilt_files(folder: Path, counter: CallCounter) -> Iterator[None]:
    """File calls under `folder` are counted, and struck as the counter says; late strikes cannot be had."""
    if not _hooks:
        sys.addaudithook(_hook)
        _hooks.append(_hook)
    watch = _Watch(str(folder), counter)
    _watches.append(watch)
    os.fsync = watch.sync
    try:
        yield
    finally:
        os.fsync = FSYNC
        _watches.remove(watch)


@dataclass(slots=True)
class LimitedArchive:
    """An archive whose first file must not grow over so many bytes. counter: is told if they were too few."""

    archive: CandidateArchive
    most_bytes: int
    counter: CallCounter
    has_written: bool = False

    async def write(self, run_id: str, parts: AsyncIterator[Candidates]) -> None:
        if self.has_written:
            await self.archive.write(run_id, parts)
            return
        self.has_written = True
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.most_bytes, before[1]))
        try:
            await self.archive.write(run_id, parts)
        except BaseException as exc:
            self.counter.hit = f"no more than {self.most_bytes} bytes: {exc}"
            raise
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.archive, name)
