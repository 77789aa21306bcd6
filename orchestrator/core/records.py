"""What the stores keep of videos, runs, segments, jobs and events, as values. Times are aware UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from orchestrator.core.contract import ModelCard
from orchestrator.core.states import IndexState, JobState, RunState
from orchestrator.core.types import (
    Candidates,
    FrameStamp,
    IndexReport,
    Lease,
    Ledger,
    RunSpec,
    SegmentPlan,
    StageSeconds,
    VideoHeader,
    View,
)
from orchestrator.errors import IdempotencyKeyInvalidError

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why something failed: a code of the error tree, and a sentence that says what to do."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What keeps a run from going on just now, such as a Triton that is away: a code of the error tree, and a sentence.

    since: when the run began to wait, whatever for. last_seen: when it was last tried in vain, as far as was noted.
    """

    code: str
    message: str
    since: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """An uploaded file. file_name is what the client called it: metadata, never a path. report: once indexed."""

    id: str
    owner: str
    sha256: str
    size_bytes: int
    file_name: str
    header: VideoHeader
    created_at: datetime
    index_state: IndexState = IndexState.PENDING
    report: IndexReport | None = None
    index_failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReport:
    """How one segment's decoding went. failed: sampled frames that gave no picture, with their reasons.

    entry_pts: the entry that worked, None for the start of the file. frame_errors: decode errors and corrupt
    frames met on the way, in frames that were not sampled too, since they may spoil sampled ones.
    """

    entry_pts: int | None = None
    failed: tuple[tuple[FrameStamp, str], ...] = ()
    frame_errors: int = 0
    decoding_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentResult:
    """All that one segment commits, at once. stamps: of the frames inferred, those without candidates included."""

    candidates: Candidates
    stamps: tuple[FrameStamp, ...]
    report: SegmentReport
    seconds: StageSeconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Inference of one video content by one model version at one sampling.

    video_id: of the file the run reads. frames_total: sampled frames, once planned. ledger: planned and skipped frames
    once planned, the others as segments are committed. virtual_time: frames served per unit of weight (start-time fair
    queueing). waiting: until the next segment is committed.
    """

    id: str
    spec: RunSpec
    card: ModelCard
    video_id: str
    state: RunState
    created_at: datetime
    frames_total: int | None = None
    segments_total: int | None = None
    segments_done: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    seconds: StageSeconds = field(default_factory=StageSeconds)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    virtual_time: float = 0.0
    waiting: Waiting | None = None
    failure: Failure | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Somebody's request for a run. attempt: 1, and one more for each retry, whose times and failure begin anew."""

    id: str
    owner: str
    run_id: str
    video_id: str
    state: JobState
    view: View
    priority: int
    timeout_s: float | None
    tags: tuple[str, ...]
    created_at: datetime
    attempt: int = 1
    started_at: datetime | None = None
    finished_at: datetime | None = None
    failure: Failure | None = None


IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{1,255}")
# For at least so long a submit that is sent again finds its job; the next submit with a key forgets older ones.
KEY_KEPT_FOR: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """What a client calls a submit, so that sending it again makes no second job. request_sha256: of what it asks for.

    Raises IdempotencyKeyInvalidError.
    """

    text: str
    request_sha256: str

    def __post_init__(self) -> None:
        if not IDEMPOTENCY_KEY.fullmatch(self.text):
            raise IdempotencyKeyInvalidError(
                "an Idempotency-Key is 1 to 255 visible ASCII characters without spaces, such as a UUID"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedSegment:
    """A segment with all that working on it needs.

    strikes: attempts that killed their decoder or their worker. strike_reason: the code of the last of them.
    """

    lease: Lease
    plan: SegmentPlan
    run: Run
    strikes: int = 0
    strike_reason: str | None = None


class EventKind(StrEnum):
    STATE = "state"
    SEGMENT = "segment"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A durable event; its id grows within the database.

    Either job_id or run_id is set: a run's events reach all its jobs.
    """

    id: int
    kind: EventKind
    job_id: str | None
    run_id: str | None
    body: Mapping[str, JsonValue]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A snapshot of a run at work. frames_done: committed, failed and inferred but not yet committed."""

    run_id: str
    frames_done: int
    frames_total: int | None
    fps: float | None
    realtime_factor: float | None
    eta_s: float | None
    stage: str
