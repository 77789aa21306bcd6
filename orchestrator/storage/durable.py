"""Files that are whole or absent, also after a power cut. Blocking: call in a thread."""

from __future__ import annotations

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
    """Where to write what is to become `path`; whatever is still there at the end is removed."""
    beside = path.with_name(path.name + UNFINISHED_SUFFIX)
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)


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


def folder_names(path: Path) -> frozenset[str]:
    """Names of the folders in `path`; none where `path` is missing."""
    try:
        return frozenset(entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return frozenset()
