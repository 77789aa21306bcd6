"""What the in-memory stores share, as the tables of a database are shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from orchestrator.core.contract import ModelCard
from orchestrator.core.job_moves import EventDraft, events_of, moved_job
from orchestrator.core.records import Event, Failure, IdempotencyKey, Job, Run, Video
from orchestrator.core.states import JobState, RunState, SegmentState
from orchestrator.core.types import Candidates, Lease, SegmentPlan
from orchestrator.errors import CursorInvalidError, JobNotFoundError, NotFoundError, VideoNotFoundError
from orchestrator.ports import Page

Item = TypeVar("Item", Video, Job)


@dataclass(slots=True, kw_only=True)
class StoredSegment:
    """One row of segments. frames: first and last source index, known once DONE. part: None once archived."""

    plan: SegmentPlan
    state: SegmentState = SegmentState.OPEN
    attempt: int = 0
    strikes: int = 0
    strike_reason: str | None = None
    leased_until: datetime | None = None
    frames: tuple[int, int] | None = None
    failed: dict[int, str] = field(default_factory=dict)
    part: Candidates | None = None

    def is_free(self, now: datetime) -> bool:
        return self.state is SegmentState.OPEN or self.is_expired(now)

    def is_expired(self, now: datetime) -> bool:
        return self.leased_until is not None and self.leased_until <= now

    def is_held_by(self, lease: Lease) -> bool:
        return self.state is SegmentState.LEASED and self.attempt == lease.attempt

    def reopen(self, *, strike: str | None = None) -> None:
        self.state, self.leased_until = SegmentState.OPEN, None
        if strike is not None:
            self.strikes, self.strike_reason = self.strikes + 1, strike


@dataclass(slots=True)
class World:
    """All rows, oldest first. A method of a store never awaits half-way, so each is one transaction."""

    videos: dict[str, Video] = field(default_factory=dict)
    cards: dict[str, ModelCard] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    segments: dict[str, list[StoredSegment]] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    # By owner and text: the key with the id and the time of the job it made.
    keys: dict[tuple[str, str], tuple[IdempotencyKey, str, datetime]] = field(default_factory=dict)
    last_event_id: int = 0
    _ids: Counter[str] = field(default_factory=Counter)

    def new_id(self, prefix: str) -> str:
        self._ids[prefix] += 1
        return f"{prefix}_{self._ids[prefix]}"

    def video(self, video_id: str) -> Video:
        """Raises VideoNotFoundError."""
        if video_id not in self.videos:
            raise VideoNotFoundError(f"there is no video {video_id:.80}; GET /v1/videos lists those there are")
        return self.videos[video_id]

    def run(self, run_id: str) -> Run:
        """Raises NotFoundError."""
        if run_id not in self.runs:
            raise NotFoundError(f"there is no run {run_id}")
        return self.runs[run_id]

    def job(self, job_id: str) -> Job:
        """Raises JobNotFoundError."""
        if job_id not in self.jobs:
            raise JobNotFoundError(f"there is no job {job_id:.80}; GET /v1/jobs lists those there are")
        return self.jobs[job_id]

    def jobs_in(self, *states: JobState, run_id: str | None = None) -> list[Job]:
        return [job for job in self.jobs.values() if job.state in states and run_id in (None, job.run_id)]

    def is_wanted(self, run_id: str) -> bool:
        return bool(self.jobs_in(JobState.RUNNING, run_id=run_id))

    def runs_at_work(self) -> Iterator[Run]:
        return (run for run in self.runs.values() if run.state is RunState.OPEN and self.is_wanted(run.id))

    def move(self, job: Job, state: JobState, *, now: datetime, failure: Failure | None = None) -> Job:
        """Move a job and tell of it. Raises TransitionError."""
        job = self.jobs[job.id] = moved_job(job, state, now=now, failure=failure)
        self.tell(events_of(job, self.runs[job.run_id]), job_id=job.id, now=now)
        return job

    def tell(
        self, drafts: Iterable[EventDraft], *, job_id: str | None = None, run_id: str | None = None, now: datetime
    ) -> None:
        for kind, body in drafts:
            self.last_event_id += 1
            self.events.append(
                Event(id=self.last_event_id, kind=kind, job_id=job_id, run_id=run_id, body=body, created_at=now)
            )

    def held(self, lease: Lease) -> StoredSegment | None:
        """The lease's segment while its attempt has it."""
        segment = self.segment(lease)
        return segment if segment is not None and segment.is_held_by(lease) else None

    def segment(self, lease: Lease) -> StoredSegment | None:
        segments = self.segments.get(lease.run_id, [])
        return segments[lease.segment] if lease.segment < len(segments) else None

    def forget_run(self, run_id: str) -> None:
        del self.runs[run_id]
        self.segments.pop(run_id, None)
        self.events = [event for event in self.events if event.run_id != run_id]

    def set_run(self, run: Run) -> None:
        """Keep the run under the card that its digest was first seen with."""
        card = self.cards.setdefault(run.spec.model.digest, run.card)
        self.runs[run.id] = replace(run, card=card)


def page_of(rows: Sequence[Item], *, limit: int, cursor: str | None) -> Page[Item]:
    """Newest first; `rows` are oldest first. The cursor is the last id told. Raises CursorInvalidError."""
    newest = list(reversed(rows))
    start = 0
    if cursor is not None:
        ids = [row.id for row in newest]
        if cursor not in ids:
            raise CursorInvalidError("the cursor is not one of ours; start without one")
        start = ids.index(cursor) + 1
    shown = newest[start : start + limit]
    return Page(items=shown, next_cursor=shown[-1].id if start + limit < len(newest) else None)
