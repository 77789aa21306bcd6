"""A run of 100,000 frames with 30 candidates each, to be written into stores by whoever measures them."""

from __future__ import annotations

from typing import Final

import numpy as np

from orchestrator.core.contract import ModelCard
from orchestrator.core.records import SegmentReport, SegmentResult
from orchestrator.core.types import Candidates, FrameStamp, IndexReport, SegmentPlan, StageSeconds, VideoHeader

FRAMES: Final = 100_000
PER_FRAME: Final = 30
FPS: Final = 25
FRAME_MS: Final = 1000 / FPS
PAGE_FRAMES: Final = 1000
# Pages that begin so far apart lie all over the run, and in the middle of what is stored together.
PAGE_DISTANCE: Final = 4777
CLASSES: Final = 80
CARD: Final = ModelCard(
    class_names=tuple(f"class {number}" for number in range(CLASSES)),
    stride=32,
    imgsz=640,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest="d" * 64,
    weights_sha256="e" * 64,
    certificate="passed",
)
HEADER: Final = VideoHeader(
    container="mp4",
    codec="h264",
    width_px=768,
    height_px=432,
    rotation_deg=0,
    is_mirrored=False,
    duration_s_hint=None,
    fps_hint=None,
)
REPORT: Final = IndexReport(frame_count=FRAMES, duration_s=FRAMES / FPS, fps=FPS, is_vfr=False)


def plans_of(segment_frames: int) -> list[SegmentPlan]:
    """The whole run in segments of one length."""
    starts = range(0, FRAMES, segment_frames)
    return [
        SegmentPlan(number, start, min(start + segment_frames, FRAMES) - 1, None) for number, start in enumerate(starts)
    ]


def result_of(plan: SegmentPlan, rng: np.random.Generator) -> SegmentResult:
    """What a worker would commit for a segment."""
    frames = range(plan.first_sample, plan.last_sample + 1)
    return SegmentResult(
        candidates=drifting_boxes(frames, rng),
        stamps=tuple(FrameStamp(frame, FRAME_MS * frame) for frame in frames),
        report=SegmentReport(),
        seconds=StageSeconds(),
    )


def drifting_boxes(frames: range, rng: np.random.Generator) -> Candidates:
    """`PER_FRAME` boxes in each frame that move by a pixel or two, with the noise of real answers."""
    shape = (len(frames), PER_FRAME)
    corners = np.linspace(0, 700, PER_FRAME * 4).reshape(PER_FRAME, 4)
    index = np.repeat(np.array(frames, np.int32), PER_FRAME)
    return Candidates(
        frame_index=index,
        pts_ms=FRAME_MS * index.astype(np.float64),
        class_ids=rng.integers(0, CLASSES, len(index)).astype(np.int16),
        confidence=-np.sort(-rng.uniform(0.05, 0.95, shape), axis=1).astype(np.float32).ravel(),
        boxes_xyxy=(corners + rng.normal(0, 1.5, (*shape, 4))).astype(np.float32).reshape(-1, 4),
    )
