"""`VideoFiles` and `CandidateArchive` in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from orchestrator.core.types import Candidates, FrameIndex
from orchestrator.errors import DataDamagedError, UploadEmptyError, UploadTooLargeError
from orchestrator.testing.world import World


@dataclass(slots=True)
class MemoryIncomingVideo:
    """contents: of the files that keep it."""

    video_id: str
    path: Path
    max_bytes: int
    contents: dict[str, bytes]
    size_bytes: int = 0
    _received: bytearray = field(default_factory=bytearray)

    async def write(self, chunk: bytes) -> None:
        if self.size_bytes + len(chunk) > self.max_bytes:
            raise UploadTooLargeError(f"the file is larger than {self.max_bytes} bytes")
        self._received += chunk
        self.size_bytes += len(chunk)

    async def keep(self) -> str:
        if not self._received:
            raise UploadEmptyError("the file is empty; send one with a video in it")
        self.contents[self.video_id] = bytes(self._received)
        return hashlib.sha256(self._received).hexdigest()


@dataclass(slots=True)
class MemoryVideoFiles:
    """Paths are names only: what stands under them is in `contents`."""

    world: World
    max_bytes: int = 2**30
    contents: dict[str, bytes] = field(default_factory=dict)
    indices: dict[str, FrameIndex] = field(default_factory=dict)

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[MemoryIncomingVideo]:
        video_id = self.world.new_id("vid")
        yield MemoryIncomingVideo(video_id, self.content_path(video_id), self.max_bytes, self.contents)

    def content_path(self, video_id: str) -> Path:
        return Path("memory") / video_id / "content"

    async def save_index(self, video_id: str, index: FrameIndex) -> None:
        self.indices[video_id] = index

    async def load_index(self, video_id: str) -> FrameIndex:
        if video_id not in self.indices:
            raise DataDamagedError(f"there is no index of {video_id}")
        return self.indices[video_id]

    async def remove(self, video_id: str) -> None:
        self.contents.pop(video_id, None)
        self.indices.pop(video_id, None)

    async def ids(self) -> frozenset[str]:
        return frozenset(self.contents)


@dataclass(slots=True)
class MemoryArchive:
    runs: dict[str, Candidates] = field(default_factory=dict)

    async def write(self, run_id: str, parts: AsyncIterator[Candidates]) -> None:
        self.runs[run_id] = Candidates.concatenate([part async for part in parts])

    async def read(
        self, run_id: str, *, first_frame: int, last_frame: int | None, with_boxes: bool = True
    ) -> AsyncIterator[Candidates]:
        if run_id not in self.runs:
            raise DataDamagedError(f"there is no archive of {run_id}")
        candidates = self.runs[run_id].within(first_frame, last_frame)
        if len(candidates):
            yield candidates if with_boxes else replace(candidates, boxes_xyxy=np.zeros_like(candidates.boxes_xyxy))

    async def remove(self, run_id: str) -> None:
        self.runs.pop(run_id, None)

    async def ids(self) -> frozenset[str]:
        return frozenset(self.runs)
