"""What works: decoders, models, slots, the event bus and the bell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.progress import ProgressShare
from orchestrator.core.records import Progress, SegmentReport
from orchestrator.core.types import (
    FrameBatch,
    FrameIndex,
    FrameStamp,
    IndexReport,
    SegmentPlan,
    ServedModel,
    VideoHeader,
)


class VideoReader(Protocol):
    """Reads videos in children of their own; nothing a file does reaches this process."""

    async def read_header(self, path: Path) -> VideoHeader:
        """Raises VideoError, DecoderError."""

    async def make_index(self, path: Path) -> tuple[FrameIndex, IndexReport]:
        """Raises VideoError, DecoderError."""

    def open_segment(self, request: SegmentRequest) -> AbstractAsyncContextManager[SegmentBatches]: ...

    async def close_run(self, run_id: str) -> None:
        """End the decoders that were kept open for a run."""


class BatchReader(Protocol):
    async def next(self) -> FrameBatch | None:
        """The next batch, None at the end. The receiver gives its slot back. Raises DecoderError, VideoError."""


class SegmentBatches(BatchReader, Protocol):
    """One segment's frames."""

    def report(self) -> SegmentReport:
        """After the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRequest:
    """What a decoder child needs for one segment.

    wanted_pts: int64 (S,) ticks, or positions in decoding order where the index is not timed. stamps: length S.
    earlier_entries: ticks to enter at when `plan.entry_pts` loses frames, nearest first; the start comes by itself.
    short_cuts: int64 (K,) ticks of key frames to go to without reading what lies before, see `core.planning`.
    """

    run_id: str
    path: Path
    plan: SegmentPlan
    stamps: Sequence[FrameStamp]
    wanted_pts: NDArray[np.int64]
    earlier_entries: Sequence[int]
    short_cuts: NDArray[np.int64]
    is_timed: bool
    imgsz: int
    stride: int
    batch_frames: int


class Model(Protocol):
    async def infer(self, model: ServedModel, batch: FrameBatch) -> NDArray[np.float32]:
        """Candidates (N, 300, 6) of a batch. Raises InferenceError after its retries are used up."""


class ModelCatalogue(Protocol):
    async def find(self, name: str, version: int | None = None) -> ServedModel:
        """The version, or the newest ready one. Raises ModelNotFoundError, ModelNotReadyError."""

    async def list(self) -> Sequence[ModelStatus]:
        """Every version that Triton knows of, ready or not, by name and version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """One version as Triton sees it. reason: why it is not ready. model: None while it is not."""

    name: str
    version: int
    is_ready: bool
    reason: str
    model: ServedModel | None


class Slots(Protocol):
    def give_back(self, slot: int) -> None:
        """Let a decoder fill it again; the caller must not touch its pixels from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Why a subscriber woke: something durable may be new, and the newest snapshot of each run that moved."""

    rang: bool
    progress: Mapping[str, Progress]


class EventBus(Protocol):
    """Doorbells and progress among all processes; what must not be lost is in the database.

    Telling never waits for anybody and never fails: whom nothing reaches just now reads the database.
    """

    @property
    def hears_all(self) -> bool:
        """Whether what other processes tell arrives here just now. Otherwise progress shows in the database only."""

    async def ring(self, *ids: str) -> None:
        """Wake the subscribers of these jobs or runs, and those of everything."""

    async def publish_progress(self, share: ProgressShare) -> None:
        """Reaches the subscribers of its run, added to what other processes tell of it.

        A newer snapshot of a run replaces one not yet received.
        """

    def shares(self, run_id: str) -> Sequence[ProgressShare]:
        """The newest of each process that was heard of lately, this one included."""

    def subscribe(self, *ids: str) -> AbstractAsyncContextManager[Subscription]:
        """Of these jobs and runs; of everything when none is named."""


class Subscription(Protocol):
    async def next(self, *, timeout_s: float) -> Wake:
        """Waits at most so long; what came since the last call is never missed."""


class Doorbell(Protocol):
    """Tells workers that there may be work. Losing a ring loses time, never work."""

    def ring(self) -> None: ...
