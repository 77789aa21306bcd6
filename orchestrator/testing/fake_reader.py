"""A `VideoReader` that decodes nothing: every path is one generated video, whose pixels tell the frame's index."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.letterbox import fit_letterbox
from orchestrator.core.records import SegmentReport
from orchestrator.core.types import FrameBatch, FrameIndex, FrameStamp, IndexReport, Letterbox, VideoHeader
from orchestrator.errors import DecoderCrashedError, DecoderUnavailableError, TrireelError
from orchestrator.ports import SegmentRequest

# What a slot's pixels become when it is given back, so that whoever still reads them is found out.
STALE: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedVideo:
    """failing: reasons by source index, of frames that give no picture.

    error: what opening it raises instead. segment_error: what decoding raises, of any segment or of `deadly_segment`.
    """

    frame_count: int = 100
    fps: int = 25
    width_px: int = 64
    height_px: int = 48
    keys_every: int = 10
    failing: Mapping[int, str] = field(default_factory=dict)
    error: TrireelError | None = None
    segment_error: TrireelError | None = None
    deadly_segment: int | None = None


class FakeSlots:
    """`ports.Slots`: a slot is out from its batch to `give_back`, and never twice."""

    def __init__(self, count: int = 8) -> None:
        self._free: asyncio.Queue[int] = asyncio.Queue(count)
        self._pixels: dict[int, NDArray[np.uint8]] = {}
        for slot in range(count):
            self._free.put_nowait(slot)

    @property
    def out(self) -> frozenset[int]:
        return frozenset(self._pixels)

    async def take(self, shape: tuple[int, ...]) -> tuple[int, NDArray[np.uint8]]:
        """Waits for a free slot; the pixels (N, H, W, 3) belong to the caller until the slot is given back."""
        slot = await self._free.get()
        self._pixels[slot] = np.zeros(shape, np.uint8)
        return slot, self._pixels[slot]

    def give_back(self, slot: int) -> None:
        """Raises KeyError for a slot that is not out."""
        self._pixels.pop(slot).fill(STALE)
        self._free.put_nowait(slot)


class FakeVideoReader:
    """`ports.VideoReader`. runs_closed: as told by `close_run`. deadly_paths: files that kill their indexer.

    lacks: so many of the next indexers cannot be started.
    """

    def __init__(self, video: GeneratedVideo, slots: FakeSlots) -> None:
        self._video = video
        self._slots = slots
        self.runs_closed: list[str] = []
        self.deadly_paths: set[Path] = set()
        self.lacks = 0

    async def read_header(self, path: Path) -> VideoHeader:
        self._raise_error()
        return VideoHeader(
            container="mp4",
            codec="h264",
            width_px=self._video.width_px,
            height_px=self._video.height_px,
            rotation_deg=0,
            is_mirrored=False,
            duration_s_hint=self._video.frame_count / self._video.fps,
            fps_hint=float(self._video.fps),
        )

    async def make_index(self, path: Path) -> tuple[FrameIndex, IndexReport]:
        self._raise_error()
        if self.lacks:
            self.lacks -= 1
            raise DecoderUnavailableError("no decoder can be started")
        if path in self.deadly_paths:
            raise DecoderCrashedError("a decoder was killed by SIGSEGV")
        positions = np.arange(self._video.frame_count, dtype=np.int64)
        index = FrameIndex(positions, positions % self._video.keys_every == 0, Fraction(1, self._video.fps))
        report = IndexReport(
            frame_count=self._video.frame_count,
            duration_s=self._video.frame_count / self._video.fps,
            fps=float(self._video.fps),
            is_vfr=False,
        )
        return index, report

    @asynccontextmanager
    async def open_segment(self, request: SegmentRequest) -> AsyncIterator[GeneratedBatches]:
        self._raise_error()
        if self._video.segment_error is not None and self._video.deadly_segment in (None, request.plan.number):
            raise self._video.segment_error
        box = fit_letterbox(self._video.width_px, self._video.height_px, imgsz=request.imgsz, stride=request.stride)
        yield GeneratedBatches(request, self._video, box, self._slots)

    async def close_run(self, run_id: str) -> None:
        self.runs_closed.append(run_id)

    def _raise_error(self) -> None:
        if self._video.error is not None:
            raise self._video.error


class GeneratedBatches:
    """`ports.SegmentBatches`."""

    def __init__(self, request: SegmentRequest, video: GeneratedVideo, box: Letterbox, slots: FakeSlots) -> None:
        self._request, self._box, self._slots = request, box, slots
        self._failed = tuple(
            (stamp, video.failing[stamp.index]) for stamp in request.stamps if stamp.index in video.failing
        )
        self._left = iter([stamp for stamp in request.stamps if stamp.index not in video.failing])

    async def next(self) -> FrameBatch | None:
        stamps = tuple(islice(self._left, self._request.batch_frames))
        if not stamps:
            return None
        slot, pixels = await self._slots.take((len(stamps), self._box.model_h_px, self._box.model_w_px, 3))
        for row, stamp in zip(pixels, stamps, strict=True):
            write_index(row, stamp)
        return FrameBatch(slot, pixels, stamps, self._box)

    def report(self) -> SegmentReport:
        return SegmentReport(entry_pts=self._request.plan.entry_pts, failed=self._failed)


def write_index(row: NDArray[np.uint8], stamp: FrameStamp) -> None:
    """Paint a frame (H, W, 3) with its source index."""
    row[..., 0], row[..., 1] = stamp.index % 256, stamp.index // 256 % 256


def read_index(row: NDArray[np.uint8]) -> int:
    """The source index that a frame (H, W, 3) was painted with, up to 65,535."""
    return int(row[0, 0, 0]) + 256 * int(row[0, 0, 1])
