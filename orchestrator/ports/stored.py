"""What is stored: videos, jobs, runs, parts, events and files.

Every method of a store is one transaction. "Rings" means: after the commit, the caller tells the event bus.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from orchestrator.core.contract import ModelCard
from orchestrator.core.records import Event, Failure, IdempotencyKey, Job, LeasedSegment, Run, SegmentResult, Video
from orchestrator.core.states import JobState
from orchestrator.core.types import Candidates, FrameIndex, IndexReport, JobSpec, Lease, SegmentPlan

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """Some items, newest first, and the cursor of the next page, None on the last one."""

    items: Sequence[Item]
    next_cursor: str | None


class VideoStore(Protocol):
    async def add(self, video: Video) -> None: ...

    async def get(self, video_id: str) -> Video:
        """Raises VideoNotFoundError."""

    async def many(self, video_ids: Collection[str]) -> dict[str, Video]:
        """Those that exist, by id."""

    async def page(self, *, limit: int, cursor: str | None) -> Page[Video]:
        """Newest first. Raises CursorInvalidError."""

    async def pending_index(self) -> Sequence[Video]:
        """Videos whose index is still to be made, oldest first."""

    async def set_indexed(self, video_id: str, report: IndexReport) -> None: ...

    async def set_index_failed(self, video_id: str, failure: Failure) -> None: ...

    async def remove(self, video_id: str) -> None:
        """Raises VideoNotFoundError; VideoInUseError while a job, live or finished, refers to it."""

    async def ids(self) -> frozenset[str]:
        """All videos, for comparing rows with files at start."""


class JobStore(Protocol):
    async def submit(
        self, spec: JobSpec, *, card: ModelCard, video_id: str, owner: str, now: datetime
    ) -> tuple[Job, Run]:
        """Insert the job with its first event, and find or make its run; `card` describes the run's model.

        A run that failed is not found again. A job whose run has succeeded is answered SUCCEEDED, with its events.
        Raises VideoNotFoundError.
        """

    async def submit_once(
        self, spec: JobSpec, *, key: IdempotencyKey, card: ModelCard, video_id: str, owner: str, now: datetime
    ) -> tuple[Job, Run, bool]:
        """`submit`, unless the owner's `key` has made a job before, which is then returned as it is now, with True.

        Forgets keys older than `KEY_KEPT_FOR`. Raises as `submitted` and `submit` do.
        """

    async def submitted(self, key: IdempotencyKey, *, owner: str) -> Job | None:
        """The job that the owner's `key` has made.

        Raises IdempotencyKeyReusedError if it was asked for something else, JobNotFoundError if it was deleted.
        """

    async def get(self, job_id: str) -> Job:
        """Raises JobNotFoundError."""

    async def page(
        self, *, limit: int, cursor: str | None, states: Collection[JobState] = (), model: str | None = None
    ) -> Page[Job]:
        """Newest first. model: "name" or "name:version". Raises CursorInvalidError."""

    async def queue_positions(self, job_ids: Collection[str]) -> dict[str, int]:
        """Of those that are QUEUED, by id; 1 is next."""

    async def counts(self) -> dict[JobState, int]:
        """Number of jobs in each state."""

    async def admit(self, *, max_running: int, now: datetime) -> Sequence[Job]:
        """Move queued jobs to RUNNING, highest priority and then oldest first, up to `max_running` running ones.

        A run that becomes wanted joins at the smallest virtual time among the runs being worked on, and has not waited.
        """

    async def cancel(self, job_id: str, *, now: datetime) -> tuple[Job, bool]:
        """The job, and whether this call moved it: RUNNING becomes CANCELLING, QUEUED becomes CANCELLED.

        Legal in every state, and twice; others stay as they are.

        Raises JobNotFoundError.
        """

    async def retry(self, job_id: str, *, now: datetime) -> tuple[Job, str | None]:
        """FAILED or CANCELLED becomes QUEUED, for another attempt; its DONE event is deleted, the others stay.

        A run that failed goes on where it stopped if there are segments left and candidates to keep. Otherwise the job
        takes the run that a submit of the same spec would get; the id of one that nobody has any more, which is
        deleted, is returned too. A job whose run has succeeded becomes SUCCEEDED at once.

        Raises JobNotFoundError; TransitionError from other states.
        """

    async def settle_cancelled(self, *, now: datetime) -> Sequence[Job]:
        """Move CANCELLING jobs to CANCELLED where no segment is leased for them alone."""

    async def expire(self, *, now: datetime) -> Sequence[Job]:
        """Fail live jobs that ran longer than their `timeout_s` with `job_timeout`."""

    async def remove(self, job_id: str) -> str | None:
        """Delete the job in any state; the id of its run if nobody else has it, which is deleted too, else None.

        Raises JobNotFoundError.
        """

    async def of_run(self, run_id: str) -> Sequence[Job]: ...


class RunStore(Protocol):
    async def get(self, run_id: str) -> Run:
        """Raises NotFoundError."""

    async def many(self, run_ids: Collection[str]) -> dict[str, Run]:
        """Those that exist, by id."""

    async def to_plan(self) -> Sequence[Run]:
        """WAITING runs with a RUNNING job, whose video's index is no longer pending."""

    async def open(
        self, run_id: str, *, plans: Sequence[SegmentPlan], skipped: int, warnings: Sequence[str], notes: Sequence[str]
    ) -> None:
        """Store the segments; WAITING becomes OPEN. Opening twice changes nothing."""

    async def lease_next(
        self, *, after: tuple[str, int] | None, avoid: Collection[str] = (), now: datetime, until: datetime
    ) -> LeasedSegment | None:
        """Lease a segment of the fairest OPEN run that a RUNNING job wants; None if there is none.

        The fairest has the smallest virtual time; leasing adds the segment's frames over its weight, the highest
        priority of its RUNNING jobs. after: the run and segment just ended, whose decoder is still open; within
        the chosen run the one after it is preferred; then segments with an expired lease come first, then open ones.
        avoid: runs to leave aside.
        """

    async def has_free_segment(self, *, now: datetime) -> bool:
        """Whether `lease_next` would find one."""

    async def renew(self, lease: Lease, *, until: datetime) -> None:
        """Raises LeaseLostError."""

    async def hand_back(self, lease: Lease, *, strike: str | None = None) -> bool:
        """LEASED becomes OPEN, and what the lease cost the run is refunded; False if the lease was lost.

        strike: the code with which the attempt killed its decoder. A lease that expired counts as a strike too, as
        `worker_lost`; strikes, and the code of the last one, come back with the next `lease_next`.
        """

    async def wait(self, run_id: str, failure: Failure, *, tried_at: datetime, now: datetime) -> datetime:
        """Note that the attempt that began at `tried_at` was in vain; since when the run waits, whatever for.

        A commit ends the wait, and so does joining anew. The first attempt after a time in which nobody was at work
        begins another. A run that is not OPEN waits for nothing: nothing is noted then. Raises NotFoundError.
        """

    async def is_wanted(self, run_id: str) -> bool:
        """Whether a RUNNING job still wants it."""

    async def free_leases(self) -> int:
        """Open every leased segment, with a strike: at the start of the only server on this database."""

    async def to_finalize(self) -> Sequence[Run]:
        """OPEN runs all of whose segments are DONE, moved to FINALIZING, and those already FINALIZING."""

    async def succeed(self, run_id: str, *, now: datetime) -> Sequence[Job]:
        """FINALIZING becomes SUCCEEDED with all its live jobs; the parts are deleted. Returns those jobs."""

    async def fail(self, run_id: str, failure: Failure, *, now: datetime) -> Sequence[Job]:
        """The run becomes FAILED with all its live jobs; candidates already committed stay. Returns those jobs."""

    async def lose_results(self, run_id: str, failure: Failure) -> None:
        """SUCCEEDED becomes FAILED, so that the run is not found again; its jobs stay as they ended."""

    async def ids(self) -> frozenset[str]: ...


class PartStore(Protocol):
    async def commit(self, lease: Lease, result: SegmentResult, *, now: datetime) -> Run:
        """Store a segment whole with its event and its share of the run's ledger, in one transaction.

        Twice leaves one copy. The time that writing took is added to the run's. Returns the run as it is after it.
        Raises LeaseLostError.
        """

    def read(self, run_id: str, *, first_frame: int, last_frame: int | None) -> AsyncIterator[Candidates]:
        """Committed candidates of frames first_frame..last_frame (source indices, inclusive), in frame order,
        one or more segments at a time; stops before the first segment that is not committed.

        Raises PartsMovedError when the run was finalized: its candidates are in the archive.
        """

    async def complete_through(self, run_id: str) -> int | None:
        """Source index of the last frame before the first segment that is not committed; None if there is none."""

    async def failed_frames(self, run_id: str) -> Mapping[int, str]:
        """Sampled frames that gave no picture, by source index, with their reasons."""


class EventStore(Protocol):
    async def after(self, job: Job, *, last_id: int, limit: int) -> Sequence[Event]:
        """The job's own events and its run's, ids over last_id, in order."""

    async def of_all_jobs_after(self, *, last_id: int, limit: int) -> Sequence[Event]:
        """STATE and DONE events of every job."""

    async def last_id(self) -> int: ...

    async def done_id(self, job_id: str) -> int | None:
        """Of the job's DONE event; None while it has none."""


class CandidateArchive(Protocol):
    """Finished runs' candidates, as one file each."""

    async def write(self, run_id: str, parts: AsyncIterator[Candidates]) -> None:
        """Write the whole file beside its place, then rename it into place; again replaces it."""

    def read(
        self, run_id: str, *, first_frame: int, last_frame: int | None, with_boxes: bool = True
    ) -> AsyncIterator[Candidates]:
        """As `PartStore.read`, whole frames at a time. with_boxes: else their sides are not read, and are zero."""

    async def remove(self, run_id: str) -> None: ...

    async def ids(self) -> frozenset[str]: ...


class VideoFiles(Protocol):
    """Contents and indices, in files named by video id only."""

    def receive(self) -> AbstractAsyncContextManager[IncomingVideo]:
        """A new file to be filled; without `keep` nothing of it is left at the end."""

    def content_path(self, video_id: str) -> Path: ...

    async def save_index(self, video_id: str, index: FrameIndex) -> None: ...

    async def load_index(self, video_id: str) -> FrameIndex:
        """Raises StorageError when the file is missing or torn."""

    async def remove(self, video_id: str) -> None:
        """Nothing happens where there is none."""

    async def ids(self) -> frozenset[str]: ...


class Stores(Protocol):
    """Stores that see one another's rows."""

    @property
    def videos(self) -> VideoStore: ...
    @property
    def jobs(self) -> JobStore: ...
    @property
    def runs(self) -> RunStore: ...
    @property
    def parts(self) -> PartStore: ...
    @property
    def events(self) -> EventStore: ...
    @property
    def archive(self) -> CandidateArchive: ...
    @property
    def files(self) -> VideoFiles: ...


class IncomingVideo(Protocol):
    video_id: str
    size_bytes: int
    path: Path

    async def write(self, chunk: bytes) -> None:
        """Raises UploadTooLargeError, DiskFullError."""

    async def keep(self) -> str:
        """Make the file durable and return its SHA-256 (hex). Raises UploadEmptyError."""
