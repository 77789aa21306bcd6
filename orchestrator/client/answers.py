"""The API's JSON as values. Fields that a newer server adds are ignored; lists are tuples, so that all is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec

Item = TypeVar("Item")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything the server answers."""


class PageAnswer(Answer, Generic[Item], frozen=True, kw_only=True):
    """Some items, newest first; next_cursor: None on the last page."""

    items: tuple[Item, ...]
    next_cursor: str | None = None


class FailureAnswer(Answer, frozen=True, kw_only=True):
    code: str
    message: str


class VideoAnswer(Answer, frozen=True, kw_only=True):
    """An uploaded file. frame_count, is_vfr: None until the index is made, whose state is pending, ready or failed.

    width_px, height_px: of the upright frame. duration_s, fps: until then what the header says. error: why no index.
    """

    id: str
    file_name: str
    sha256: str
    size_bytes: int
    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int
    is_mirrored: bool
    duration_s: float | None
    frame_count: int | None
    fps: float | None
    is_vfr: bool | None
    index_state: str
    created_at: datetime
    error: FailureAnswer | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ViewAnswer(Answer, frozen=True, kw_only=True):
    """The thresholds and filters in force. classes: names; None lets every class through."""

    conf: float
    iou: float
    classes: tuple[str, ...] | None
    max_det: int


class ParamsAnswer(Answer, frozen=True, kw_only=True):
    """What was asked for, with defaults filled in."""

    every_nth: int
    fps: float | None
    start_s: float | None
    end_s: float | None
    view: ViewAnswer
    priority: int
    timeout_s: float | None
    tags: tuple[str, ...]


class JobModelAnswer(Answer, frozen=True, kw_only=True):
    name: str
    version: int
    digest: str


class ProgressAnswer(Answer, frozen=True, kw_only=True):
    """frames_total, fps, realtime_factor, eta_s: None while unknown, percent too. percent: 0.0 to 100.0."""

    percent: float | None
    frames_done: int
    frames_total: int | None
    fps: float | None = None
    realtime_factor: float | None = None
    eta_s: float | None = None


class LedgerAnswer(Answer, frozen=True, kw_only=True):
    """planned = inferred + failed, once the job is over. reasons: failed frames by code."""

    planned: int
    inferred: int
    failed: int
    skipped: int
    reasons: Mapping[str, int]


class TimingsAnswer(Answer, frozen=True, kw_only=True):
    """Seconds; stages overlap, so the sum may exceed the wall time. queued, indexing: None where not known."""

    queued: float | None
    indexing: float | None
    decoding: float
    waiting: float
    inferring: float
    writing: float


class JobAnswer(Answer, frozen=True, kw_only=True):
    """A job and the state of its run.

    attempt: one more for each retry. queue_position: 1 is next. error: why it failed.
    """

    id: str
    state: str
    is_terminal: bool
    attempt: int = 1
    stage: str
    state_reason: str | None = None
    queue_position: int | None = None
    video: VideoAnswer
    model: JobModelAnswer
    params: ParamsAnswer
    progress: ProgressAnswer
    ledger: LedgerAnswer
    timings_s: TimingsAnswer
    error: FailureAnswer | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class DetectionAnswer(Answer, frozen=True, kw_only=True):
    """xyxy: pixels of the upright source frame. pts_ms: since the first frame."""

    frame_index: int
    pts_ms: float
    class_id: int
    class_name: str
    confidence: float
    xyxy: tuple[float, float, float, float]


class FrameAnswer(Answer, frozen=True, kw_only=True):
    """One sampled frame. failed: why it gave no picture, None where it was inferred."""

    frame_index: int
    pts_ms: float
    detections: tuple[DetectionAnswer, ...] = ()
    failed: str | None = None


class BucketAnswer(Answer, frozen=True, kw_only=True):
    """Detections by class name in [start_s, start_s + bucket_s). frames: sampled ones."""

    start_s: float
    frames: int
    counts: Mapping[str, int]


class TimelineAnswer(Answer, frozen=True, kw_only=True):
    """Detections over time, under a view. complete_through_frame: every sampled frame up to it is counted."""

    job_id: str
    bucket_s: float
    view: ViewAnswer
    classes: tuple[str, ...]
    buckets: tuple[BucketAnswer, ...]
    complete_through_frame: int | None
    is_complete: bool


class ModelVersionAnswer(Answer, frozen=True, kw_only=True):
    """One version as Triton sees it; what it tells of itself is None while it is not ready. reason: why it is not.

    imgsz: longest side of the input in pixels. floor, iou: of the stored boxes. certificate: "passed" or "weak";
    certificate_report: the whole of it, only where one model is asked for.
    """

    version: int
    is_ready: bool
    reason: str
    digest: str | None
    class_names: tuple[str, ...]
    imgsz: int | None
    floor: float | None
    iou: float | None
    precision: str | None
    certificate: str | None
    certificate_report: Mapping[str, object] | None = None


class ModelAnswer(Answer, frozen=True, kw_only=True):
    name: str
    versions: tuple[ModelVersionAnswer, ...]


class LimitsAnswer(Answer, frozen=True, kw_only=True):
    """Every limit of the server. max_body_bytes: of every request that is no upload.

    decoder_memory_bytes, stall_timeout_s: of one decoder. max_tags, max_tag_length: of a job, in characters.
    """

    max_upload_bytes: int
    max_duration_s: float
    max_frame_pixels: int
    max_fps: float
    max_frames: int
    decoder_memory_bytes: int
    stall_timeout_s: float
    max_running_jobs: int
    max_detections_per_frame: int
    max_tags: int
    max_tag_length: int
    max_page_items: int
    max_body_bytes: int


class TritonAnswer(Answer, frozen=True, kw_only=True):
    """One Triton of those that jobs are spread over. reasons: what is missing there."""

    url: str
    is_ready: bool
    reasons: tuple[str, ...]
    transport: str
    transport_reason: str


class ReadinessAnswer(Answer, frozen=True, kw_only=True):
    """reasons: what is missing. transport: how frames reach Triton ("mixed": it depends on which), and why so.

    triton_url: several are parted by commas. tritons: each by itself.
    """

    is_ready: bool
    reasons: tuple[str, ...]
    transport: str
    transport_reason: str
    triton_url: str
    triton_metrics_url: str
    tritons: tuple[TritonAnswer, ...]


class StateBody(Answer, frozen=True, kw_only=True):
    """The job entered a state. reason: the code of its error."""

    job_id: str
    state: str
    attempt: int = 1
    reason: str | None = None


class SegmentBody(Answer, frozen=True, kw_only=True):
    """A committed segment: the sampled frames from first_frame to last_frame, inclusive, by source index.

    frames = inferred + failed. candidates: stored boxes. frames_done: of the run so far. detections: with boxes only.
    """

    job_id: str
    segment: int
    first_frame: int
    last_frame: int
    frames: int
    inferred: int
    failed: int
    candidates: int
    frames_done: int
    frames_total: int | None
    detections: tuple[DetectionAnswer, ...] = ()


class ProgressBody(ProgressAnswer, frozen=True, kw_only=True):
    job_id: str
    stage: str


class DoneBody(Answer, frozen=True, kw_only=True):
    """The last event of every job."""

    job_id: str
    state: str
    error: FailureAnswer | None = None
    frames_done: int
    frames_total: int | None


class JobEvent(Answer, frozen=True, kw_only=True, rename={"kind": "event", "body": "data"}):
    """One event of a job's stream, in JSON the message of a WebSocket: `{"event": ..., "id": ..., "data": {...}}`.

    id: None for progress, which is a snapshot and is not replayed.
    """

    kind: str
    id: int | None
    body: StateBody | SegmentBody | ProgressBody | DoneBody


EVENT_BODIES: Final[Mapping[str, type[StateBody | SegmentBody | ProgressBody | DoneBody]]] = {
    "state": StateBody,
    "segment": SegmentBody,
    "progress": ProgressBody,
    "done": DoneBody,
}
SNAPSHOT_KINDS: Final = frozenset({"progress"})
