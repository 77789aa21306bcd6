"""Opening decoders for a test, and asking them for segments as the pipeline does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from orchestrator.core.planning import earlier_entries, plan_segments, short_cuts
from orchestrator.core.records import SegmentReport
from orchestrator.core.sampling import SampledFrames
from orchestrator.core.types import FrameIndex, Letterbox, Sampling
from orchestrator.ports import SegmentRequest
from orchestrator.settings import VideoLimits
from orchestrator.telemetry import Metrics
from orchestrator.video.children import DECODER_PARENT
from orchestrator.video.decoders import Decoders, open_decoders
from orchestrator.video.slots import SlotPool, open_slots

# The generated videos are 160 wide, so that letterboxing copies their pixels and resizes nothing.
IMGSZ: Final = 160
STRIDE: Final = 32
BATCH_FRAMES: Final = 4
SLOTS: Final = 3
LIMITS: Final = VideoLimits(
    max_duration_s=3600,
    max_frame_pixels=4320 * 7680,
    max_fps=240,
    max_frames=100_000,
    decoder_memory_bytes=2 * 1024**3,
)


@dataclass(frozen=True, slots=True)
class Reader:
    """Open decoders and the slots they fill."""

    decoders: Decoders
    slots: SlotPool
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Row:
    """One frame out of a batch: a copy of its letterboxed pixels, uint8 (H, W, 3)."""

    index: int
    pixels: NDArray[np.uint8]
    box: Letterbox


@asynccontextmanager
async def open_reader(
    *,
    limits: VideoLimits = LIMITS,
    stall_timeout_s: float = 60,
    imgsz: int = IMGSZ,
    most_idle: int = 4,
    longest_idle_s: float = 60,
    end_timeout_s: float = 20,
    parent_module: str = DECODER_PARENT,
) -> AsyncIterator[Reader]:
    metrics = Metrics(CollectorRegistry())
    with open_slots(count=SLOTS, slot_bytes=BATCH_FRAMES * imgsz * imgsz * 3, metrics=metrics) as slots:
        async with open_decoders(
            limits=limits,
            stall_timeout_s=stall_timeout_s,
            slots=slots,
            metrics=metrics,
            most_idle=most_idle,
            longest_idle_s=longest_idle_s,
            end_timeout_s=end_timeout_s,
            parent_module=parent_module,
        ) as decoders:
            yield Reader(decoders, slots, metrics)
        assert slots.free_count == SLOTS


def segment_requests(
    path: Path,
    index: FrameIndex,
    *,
    segment_frames: int,
    run_id: str = "run",
    sampling: Sampling | None = None,
    imgsz: int = IMGSZ,
) -> Sequence[SegmentRequest]:
    """One request for each segment of a run."""
    frames = SampledFrames.of(index, sampling or Sampling())
    requests = []
    for plan in plan_segments(frames, segment_frames=segment_frames):
        positions = frames.positions[plan.first_sample : plan.last_sample + 1]
        requests.append(
            SegmentRequest(
                run_id=run_id,
                path=path,
                plan=plan,
                stamps=frames.stamps(plan.first_sample, plan.last_sample),
                wanted_pts=index.pts[positions] if index.is_timed else positions,
                earlier_entries=earlier_entries(index, plan.entry_pts),
                short_cuts=short_cuts(frames, plan),
                is_timed=index.is_timed,
                imgsz=imgsz,
                stride=STRIDE,
                batch_frames=BATCH_FRAMES,
            )
        )
    return requests


async def decode_segment(reader: Reader, request: SegmentRequest) -> tuple[list[Row], SegmentReport]:
    """All frames of a segment; the ledger of the segment must add up."""
    rows: list[Row] = []
    async with reader.decoders.open_segment(request) as batches:
        while (batch := await batches.next()) is not None:
            rows += [
                Row(stamp.index, pixels.copy(), batch.letterbox)
                for stamp, pixels in zip(batch.stamps, batch.pixels, strict=True)
            ]
            reader.slots.give_back(batch.slot)
        report = batches.report()
    accounted = [row.index for row in rows] + [stamp.index for stamp, _ in report.failed]
    assert sorted(accounted) == [stamp.index for stamp in request.stamps]
    return rows, report
