"""Videos as files: `videos/<id>/content` and `videos/<id>/index`, under names of ours only.

An upload grows in `incoming/<id>` and is renamed into place when it is whole, so a crash leaves nothing under
`videos` that was not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Final

from orchestrator.core.types import FrameIndex
from orchestrator.errors import StorageError, UploadEmptyError, UploadTooLargeError
from orchestrator.storage.durable import folder_names, put_in_place, remove_folder, sync_path, unfinished
from orchestrator.storage.failures import file_errors
from orchestrator.storage.ids import new_id
from orchestrator.storage.index_codec import decode_index, encode_index
from orchestrator.storage.threads import Threads

CONTENT: Final = "content"
INDEX: Final = "index"


class LocalIncomingVideo:
    """`ports.IncomingVideo`. One write at a time, each on disk when it returns: the sender waits, nothing piles up."""

    def __init__(self, video_id: str, *, folder: Path, place: Path, max_bytes: int, threads: Threads) -> None:
        self.video_id = video_id
        self.size_bytes = 0
        self.path = folder / CONTENT
        self._folder, self._place = folder, place
        self._max_bytes = max_bytes
        self._threads = threads
        self._digest = hashlib.sha256()
        self._content: FileIO | None = None
        self._is_kept = False
        # A receiver that is cancelled leaves its last write running; closing waits for it here.
        self._busy = Lock()

    async def open(self) -> None:
        await self._threads.run(self._open)

    async def write(self, chunk: bytes) -> None:
        if self.size_bytes + len(chunk) > self._max_bytes:
            raise UploadTooLargeError(f"the file is larger than {self._max_bytes} bytes; see GET /v1/limits")
        self.size_bytes += len(chunk)
        await self._threads.run(self._write, chunk)

    async def keep(self) -> str:
        if not self.size_bytes:
            raise UploadEmptyError("the file is empty; send one with a video in it")
        await self._threads.run(self._put_in_place)
        self.path = self._place / CONTENT
        self._is_kept = True
        return self._digest.hexdigest()

    async def close(self) -> None:
        """Remove what was not kept."""
        await asyncio.shield(self._threads.run(self._close))

    def _open(self) -> None:
        with file_errors(), self._busy:
            self._folder.mkdir(parents=True)
            self._content = FileIO(self.path, "xb")

    def _write(self, chunk: bytes) -> None:
        with file_errors(), self._busy:
            content = self._opened()
            rest = memoryview(chunk)
            while rest:
                rest = rest[content.write(rest) :]
            self._digest.update(chunk)

    def _put_in_place(self) -> None:
        with file_errors(), self._busy:
            os.fsync(self._opened().fileno())
            sync_path(self._folder)
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._folder.rename(self._place)
            sync_path(self._place.parent)

    def _close(self) -> None:
        with file_errors(), self._busy:
            if self._content is not None:
                self._content.close()
            self._content = None
            if not self._is_kept:
                remove_folder(self._folder)
                remove_folder(self._place)

    def _opened(self) -> FileIO:
        if self._content is None:
            raise StorageError(f"the upload of {self.video_id} is over")
        return self._content


class LocalVideoFiles:
    """`ports.VideoFiles` in a local folder. data_dir: exists."""

    def __init__(self, data_dir: Path, *, max_bytes: int, threads: Threads) -> None:
        self._videos = data_dir / "videos"
        self._incoming = data_dir / "incoming"
        self._max_bytes = max_bytes
        self._threads = threads

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[LocalIncomingVideo]:
        video_id = new_id("vid")
        incoming = LocalIncomingVideo(
            video_id,
            folder=self._incoming / video_id,
            place=self._videos / video_id,
            max_bytes=self._max_bytes,
            threads=self._threads,
        )
        try:
            await incoming.open()
            yield incoming
        finally:
            await incoming.close()

    def content_path(self, video_id: str) -> Path:
        return self._videos / video_id / CONTENT

    async def save_index(self, video_id: str, index: FrameIndex) -> None:
        await self._threads.run(self._save_index, video_id, index)

    async def load_index(self, video_id: str) -> FrameIndex:
        return await self._threads.run(self._load_index, video_id)

    async def remove(self, video_id: str) -> None:
        await self._threads.run(self._remove, self._videos / video_id)

    async def ids(self) -> frozenset[str]:
        return await self._threads.run(self._names, self._videos)

    async def whole_ids(self) -> frozenset[str]:
        """Of the videos whose content is there."""
        return await self._threads.run(lambda: self._names(self._videos, holding=CONTENT))

    async def sweep_incoming(self) -> int:
        """Remove what uploads left that a crash cut off; only while no upload runs. Returns how many."""
        names = await self._threads.run(self._names, self._incoming)
        for name in names:
            await self._threads.run(self._remove, self._incoming / name)
        return len(names)

    def _save_index(self, video_id: str, index: FrameIndex) -> None:
        path = self._videos / video_id / INDEX
        with file_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished(path) as beside:
                beside.write_bytes(encode_index(index))
                put_in_place(beside, path)

    def _load_index(self, video_id: str) -> FrameIndex:
        with file_errors():
            return decode_index((self._videos / video_id / INDEX).read_bytes())

    def _remove(self, folder: Path) -> None:
        with file_errors():
            remove_folder(folder)

    def _names(self, folder: Path, *, holding: str = "") -> frozenset[str]:
        with file_errors():
            return folder_names(folder, holding=holding)
