"""Files that are whole or absent, also after a power cut. Blocking: call in a thread."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# A crash may leave such a file; the next writer of its place replaces it.
UNFINISHED_SUFFIX: Final = ".unfinished"


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Where to write what is to become `path`; whatever is still there at the end is removed.

    Raises BlockingIOError while another writer is at it, which may be another server of the same directory.
    """
    beside = path.with_name(path.name + UNFINISHED_SUFFIX)
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_file_of(descriptor, beside):
            raise BlockingIOError(errno.EAGAIN, "another writer has just finished", str(beside))
        try:
            yield beside
        finally:
            # Else it has its place, and the file there by now is the next writer's.
            if _is_file_of(descriptor, beside):
                beside.unlink()
    finally:
        os.close(descriptor)


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def put_in_place(beside: Path, path: Path) -> None:
    """Make the file `beside` durable and rename it to `path`, in one folder, replacing what is there."""
    sync_path(beside)
    beside.rename(path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(path: Path) -> None:
    """With all that is in it; nothing happens where there is none."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return


def folder_names(path: Path, *, holding: str = "") -> frozenset[str]:
    """Names of the folders in `path`; none where `path` is missing. holding: only those with a file of this name."""
    try:
        folders = [entry for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
        return frozenset(each.name for each in folders if not holding or os.path.isfile(os.path.join(each, holding)))
    except FileNotFoundError:
        return frozenset()
