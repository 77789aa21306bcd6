"""The types that carry data between parts. Frozen; arrays are read-only by agreement.

Time is milliseconds in `pts_ms`, seconds in durations; ticks exist only in `FrameIndex` and entries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.contract import DEFAULT_CONFIDENCE, DEFAULT_IOU, MAX_CANDIDATES, ModelCard
from orchestrator.errors import ModelChangedError, SamplingInvalidError, ThresholdOutOfRangeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames of a video are inferred: every n-th, or one per 1/fps seconds; within [start_ms, end_ms)."""

    every_nth: int = 1
    fps: float | None = None
    start_ms: float | None = None
    end_ms: float | None = None

    def __post_init__(self) -> None:
        if self.every_nth < 1:
            raise SamplingInvalidError(f"every_nth must be 1 or more, not {self.every_nth}")
        if self.fps is not None and (self.every_nth != 1 or not 0 < self.fps <= 1000):
            raise SamplingInvalidError("give either every_nth or fps, and an fps over 0 and at most 1000")
        if self.start_ms is not None and self.start_ms < 0:
            raise SamplingInvalidError(f"the start must not be negative, but is {self.start_ms / 1000} s")
        if self.end_ms is not None and self.end_ms <= (self.start_ms or 0):
            raise SamplingInvalidError("the end must come after the start")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One published version; `digest` is the SHA-256 of its graph."""

    name: str
    version: int
    digest: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What inference depends on, and nothing else: two requests with one spec share one run."""

    video_sha256: str
    model: ModelVersion
    sampling: Sampling

    def key(self) -> str:
        """SHA-256 over the spec's canonical JSON: the identity of the run."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Thresholds and filters that turn candidates into detections.

    iou: a second suppression, when stricter than the version's. class_ids: None lets every class through.
    max_det: most detections a frame.
    """

    min_confidence: float = DEFAULT_CONFIDENCE
    iou: float = DEFAULT_IOU
    class_ids: frozenset[int] | None = None
    max_det: int = MAX_CANDIDATES

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ThresholdOutOfRangeError(f"conf must lie between 0 and 1, not {self.min_confidence}")
        if not 0 < self.iou <= 1:
            raise ThresholdOutOfRangeError(f"iou must be over 0 and at most 1, not {self.iou}")
        if not 1 <= self.max_det <= MAX_CANDIDATES:
            raise ThresholdOutOfRangeError(f"max_det must lie between 1 and {MAX_CANDIDATES}, not {self.max_det}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """Somebody's request for a run. priority: 1..100, the job's weight. timeout_s: None waits for ever."""

    run: RunSpec
    view: View = field(default_factory=View)
    priority: int = 50
    timeout_s: float | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.priority <= 100:
            raise ThresholdOutOfRangeError(f"priority must lie between 1 and 100, not {self.priority}")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ThresholdOutOfRangeError(f"timeout_s must be over 0, not {self.timeout_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoHeader:
    """What a container says of its best video stream; every `_hint` may lie.

    width_px, height_px: of the upright frame, after rotation. rotation_deg: clockwise, 0/90/180/270.
    """

    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int
    is_mirrored: bool
    duration_s_hint: float | None
    fps_hint: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """Every frame that demuxing finds, in presentation order.

    pts: int64 (F,) ticks. is_key: bool (F,). time_base: seconds per tick. is_timed: False where the file has no
    usable time stamps; then `pts` counts frames at the nominal rate and no frame can be found by seeking.
    """

    pts: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    time_base: Fraction
    is_timed: bool = True

    def __post_init__(self) -> None:
        if self.pts.ndim != 1 or self.pts.shape != self.is_key.shape:
            raise ValueError(f"pts {self.pts.shape} and is_key {self.is_key.shape} must be (F,) both")

    def __len__(self) -> int:
        return len(self.pts)

    def pts_ms(self) -> NDArray[np.float64]:
        """Time of each frame since the first one, float64 (F,) milliseconds."""
        if not len(self.pts):
            return np.zeros(0, dtype=np.float64)
        return np.asarray((self.pts - self.pts[0]) * float(self.time_base * 1000), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What making the index told about the file. duration_s: last frame's end since the first frame.

    indexing_s: how long it took, None until it is known.
    warnings speak of missing or suspect frames, notes of anything else; both are short stable codes.
    """

    frame_count: int
    duration_s: float
    fps: float | None
    is_vfr: bool
    indexing_s: float | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """A run of consecutive sampled frames; positions are in the sampled list, inclusive.

    entry_pts: ticks of the key frame where decoding starts; None is the start of the file.
    """

    number: int
    first_sample: int
    last_sample: int
    entry_pts: int | None

    @property
    def frame_count(self) -> int:
        return self.last_sample - self.first_sample + 1


@dataclass(frozen=True, slots=True)
class FrameStamp:
    """index: 0-based in the source. pts_ms: since the first frame."""

    index: int
    pts_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Letterbox:
    """How an upright source frame sits in the model's input; made by `core.letterbox.fit_letterbox`.

    scale: model px per source px, for the way back. pad_x_px, pad_y_px: model px left of and above the picture.
    """

    scale: float
    pad_x_px: int
    pad_y_px: int
    source_w_px: int
    source_h_px: int
    resized_w_px: int
    resized_h_px: int
    model_w_px: int
    model_h_px: int


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Letterboxed frames of one size, ready for the model.

    pixels: uint8 (N, H, W, 3) RGB, a view of slot number `slot`; valid until the slot is given back.
    stamps: length N.
    """

    slot: int
    pixels: NDArray[np.uint8]
    stamps: tuple[FrameStamp, ...]
    letterbox: Letterbox

    def __post_init__(self) -> None:
        expected = (len(self.stamps), self.letterbox.model_h_px, self.letterbox.model_w_px, 3)
        if self.pixels.shape != expected:
            raise ValueError(f"pixels are {self.pixels.shape}, but stamps and letterbox say {expected}")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Stored boxes in frame order, best first within a frame; columns of one length K.

    frame_index: int32. pts_ms: float64. class_ids: int16. confidence: float32. boxes_xyxy: float32 (K, 4) source px.
    """

    frame_index: NDArray[np.int32]
    pts_ms: NDArray[np.float64]
    class_ids: NDArray[np.int16]
    confidence: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]

    def __post_init__(self) -> None:
        k = len(self.confidence)
        shapes = [self.frame_index.shape, self.pts_ms.shape, self.class_ids.shape]
        if shapes != [(k,)] * 3 or self.boxes_xyxy.shape != (k, 4):
            raise ValueError(f"K={k} confidences, but columns {shapes} and boxes {self.boxes_xyxy.shape}")

    def __len__(self) -> int:
        return len(self.confidence)

    @classmethod
    def empty(cls) -> Candidates:
        return cls(
            frame_index=np.zeros(0, np.int32),
            pts_ms=np.zeros(0, np.float64),
            class_ids=np.zeros(0, np.int16),
            confidence=np.zeros(0, np.float32),
            boxes_xyxy=np.zeros((0, 4), np.float32),
        )

    @classmethod
    def concatenate(cls, pieces: Iterable[Candidates]) -> Candidates:
        """Join pieces in the order given."""
        some = list(pieces)
        if not some:
            return cls.empty()
        return cls(
            frame_index=np.concatenate([piece.frame_index for piece in some]),
            pts_ms=np.concatenate([piece.pts_ms for piece in some]),
            class_ids=np.concatenate([piece.class_ids for piece in some]),
            confidence=np.concatenate([piece.confidence for piece in some]),
            boxes_xyxy=np.concatenate([piece.boxes_xyxy for piece in some]),
        )

    def within(self, first_frame: int, last_frame: int | None) -> Candidates:
        """The rows of frames first_frame..last_frame, inclusive, as views; frames must ascend."""
        start = int(np.searchsorted(self.frame_index, first_frame, side="left"))
        end = len(self) if last_frame is None else int(np.searchsorted(self.frame_index, last_frame, side="right"))
        return Candidates(
            frame_index=self.frame_index[start:end],
            pts_ms=self.pts_ms[start:end],
            class_ids=self.class_ids[start:end],
            confidence=self.confidence[start:end],
            boxes_xyxy=self.boxes_xyxy[start:end],
        )

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Candidates:
        """The rows that a mask (K,) or positions choose, as a new set."""
        return Candidates(
            frame_index=self.frame_index[rows],
            pts_ms=self.pts_ms[rows],
            class_ids=self.class_ids[rows],
            confidence=self.confidence[rows],
            boxes_xyxy=self.boxes_xyxy[rows],
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """One attempt's right to a segment. attempt: the fencing token. until: aware UTC."""

    run_id: str
    segment: int
    attempt: int
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Where every frame went: planned = inferred + failed once closed; skipped frames were not sampled.

    reasons: failed frames by reason code.
    """

    planned: int = 0
    inferred: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def settled(self) -> int:
        """Frames whose fate is known."""
        return self.inferred + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """Time one or more segments spent in each stage; stages overlap, so the sum may exceed the wall time."""

    decoding: float = 0.0
    waiting: float = 0.0
    inferring: float = 0.0
    writing: float = 0.0

    def __add__(self, other: StageSeconds) -> StageSeconds:
        return StageSeconds(
            decoding=self.decoding + other.decoding,
            waiting=self.waiting + other.waiting,
            inferring=self.inferring + other.inferring,
            writing=self.writing + other.writing,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model version that Triton serves, with what inference needs to know of it.

    max_batch: most frames a request. instances: how many batches Triton works on at once.
    """

    version: ModelVersion
    card: ModelCard
    max_batch: int
    instances: int

    def require_digest(self, digest: str) -> None:
        """Raises ModelChangedError if this is another network than the one with `digest`."""
        if self.version.digest != digest:
            raise ModelChangedError(
                f"Triton serves another network as {self.version} than the run began with; "
                "publish changed weights as a new version"
            )
