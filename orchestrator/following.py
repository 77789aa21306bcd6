"""Following jobs: durable events from the database, live progress from the bus, in one stream.

The database is the truth and the bus only a doorbell: a stream that missed every ring still tells
everything, and one that begins late or again tells each event once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.core.progress import Told
from orchestrator.core.records import Event, EventKind, Job, JsonValue, Progress
from orchestrator.core.rendering import detection_objects, progress_object
from orchestrator.core.states import JobState, RunState
from orchestrator.errors import JobNotFoundError
from orchestrator.metering import Meters
from orchestrator.ports import EventBus, EventStore, JobStore, RunStore, Wake
from orchestrator.results import Results
from orchestrator.waking import NOTHING_NEW, next_wake

PING_INTERVAL_S: Final = 15.0
PROGRESS_INTERVAL_S: Final = 0.2
EVENTS_A_READ: Final = 200
# Newest runs whose progress is read from the database, where no process tells of it.
RUNS_A_LOOK: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """kind: state, segment, done or progress. id: None for progress, which is not replayed."""

    kind: str
    id: int | None
    body: Mapping[str, JsonValue]


class _Pace:
    """When one stream looks into the database, tells progress and pings.

    may_be_news: something durable may be new; progress comes many times a second and says nothing of that.
    """

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self.may_be_news = True
        self._is_quiet = False
        self._monotonic_s = monotonic_s
        self._waiting: dict[str, Progress] = {}
        self._passed_s = float("-inf")
        self._looked_s = float("-inf")
        self._spoke_s = monotonic_s()

    def heard(self, wake: Wake) -> None:
        # A wait that ended for progress that was held back says nothing either.
        self._is_quiet = wake == NOTHING_NEW and not self._waiting
        self.may_be_news = wake.rang or self._is_quiet
        self.add(wake.progress)

    def add(self, snapshots: Mapping[str, Progress]) -> None:
        self._waiting.update(snapshots)

    def take(self) -> list[Progress]:
        """The newest snapshot of each run, all together at most once in `PROGRESS_INTERVAL_S`."""
        if not self._waiting or self._since(self._passed_s) < PROGRESS_INTERVAL_S:
            return []
        self._passed_s = self._monotonic_s()
        taken = list(self._waiting.values())
        self._waiting.clear()
        return taken

    def is_look_due(self) -> bool:
        """Also where progress alone came for long: a ring may have been missed."""
        is_due = self.may_be_news or self._since(self._looked_s) >= PING_INTERVAL_S
        if is_due:
            self._looked_s = self._monotonic_s()
        return is_due

    def spoke(self) -> None:
        """The stream tells something."""
        self._spoke_s = self._monotonic_s()

    def is_ping_due(self) -> bool:
        """Also where news came all the time and none was worth telling: others' rings keep no connection open."""
        is_due = self._is_quiet or self._since(self._spoke_s) >= PING_INTERVAL_S
        if is_due:
            self.spoke()
        return is_due

    def patience_s(self) -> float:
        """How long to wait for news: until held-back progress may pass, or a ping is due."""
        if self._waiting:
            return max(0.0, PROGRESS_INTERVAL_S - self._since(self._passed_s))
        return max(0.0, PING_INTERVAL_S - self._since(self._spoke_s))

    def _since(self, then_s: float) -> float:
        return self._monotonic_s() - then_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """stopping: shared with all that streams; set by `stop`."""

    jobs: JobStore
    runs: RunStore
    events: EventStore
    bus: EventBus
    meters: Meters
    results: Results
    monotonic_s: Callable[[], float]
    stopping: asyncio.Event

    def stop(self) -> None:
        """End every stream soon, those of results with ServerStoppingError; new ones end at once."""
        self.stopping.set()

    async def is_over(self, job_id: str, *, last_id: int) -> bool:
        """Whether a client that saw `last_id` has seen the job's end. Raises JobNotFoundError."""
        job = await self.jobs.get(job_id)
        return await self._has_seen_end(job, last_id)

    async def job(
        self, job_id: str, *, last_id: int = 0, with_boxes: bool = False
    ) -> AsyncIterator[StreamEvent | None]:
        """A job's events after `last_id`, then live; None when it was quiet for 15 s.

        Ends with `done`, when the job is deleted or retried on another run, and when the server stops.

        with_boxes: segment events carry the detections of the job's own view. Raises JobNotFoundError.
        """
        job = await self.jobs.get(job_id)
        pace, told = _Pace(self.monotonic_s), Told()
        async with self.bus.subscribe(job.id, job.run_id) as subscription:
            pace.add(await self._progress_so_far(job))
            if await self._has_seen_end(job, last_id):
                return
            while True:
                if pace.is_look_due():
                    async for event in self._news(job, last_id, pace, with_boxes=with_boxes):
                        last_id = event.id or last_id
                        yield event
                        if event.kind == EventKind.DONE:
                            return
                for event in _progress_news(job, pace.take(), told, pace):
                    yield event
                pace.heard(await next_wake(subscription, self.stopping, timeout_s=pace.patience_s()))
                if self.stopping.is_set():
                    return
                if pace.is_ping_due():
                    yield None
                now = await self._as_it_is_now(job) if pace.may_be_news else job
                if now is None:
                    return
                job = now

    async def all_jobs(self, *, last_id: int | None = None) -> AsyncIterator[StreamEvent | None]:
        """States and progress of every job, after `last_id` or from now on; None when it was quiet for 15 s."""
        pace, told = _Pace(self.monotonic_s), Told()
        async with self.bus.subscribe() as subscription:
            seen_id = await self.events.last_id() if last_id is None else last_id
            while True:
                if pace.is_look_due():
                    async for event in self._news_of_all_jobs(seen_id, pace):
                        seen_id = event.id or seen_id
                        yield event
                for progress in pace.take():
                    for job in await self.jobs.of_run(progress.run_id):
                        if not job.state.is_terminal:
                            for event in _progress_news(job, [progress], told, pace):
                                yield event
                pace.heard(await next_wake(subscription, self.stopping, timeout_s=pace.patience_s()))
                if self.stopping.is_set():
                    return
                if pace.is_ping_due():
                    yield None

    async def _news(self, job: Job, last_id: int, pace: _Pace, *, with_boxes: bool) -> AsyncIterator[StreamEvent]:
        """All events after `last_id` that are there by now; where the counter stands goes before `done`."""
        page: Sequence[Event] | None = None
        has_moved = False
        while page is None or len(page) == EVENTS_A_READ:
            page = await self.events.after(job, last_id=last_id, limit=EVENTS_A_READ)
            for event in page:
                last_id = event.id
                has_moved |= event.kind is EventKind.SEGMENT
                if event.kind is EventKind.DONE and (last := await self._last_progress(job)):
                    yield last
                pace.spoke()
                yield await self._stream_event(job, event, with_boxes=with_boxes)
        if has_moved and not self.bus.hears_all:
            pace.add(await self._progress_so_far(job))

    async def _news_of_all_jobs(self, last_id: int, pace: _Pace) -> AsyncIterator[StreamEvent]:
        page: Sequence[Event] | None = None
        while page is None or len(page) == EVENTS_A_READ:
            page = await self.events.of_all_jobs_after(last_id=last_id, limit=EVENTS_A_READ)
            for event in page:
                last_id = event.id
                pace.spoke()
                yield StreamEvent(kind=event.kind.value, id=event.id, body=event.body)
        if not self.bus.hears_all:
            at_work = await self.jobs.page(limit=RUNS_A_LOOK, cursor=None, states=(JobState.RUNNING,))
            pace.add(await self._progress_of({job.run_id for job in at_work.items}))

    async def _progress_so_far(self, job: Job) -> Mapping[str, Progress]:
        """What is shown of a job without waiting for those who work on it: to one who comes late, or hears nothing."""
        return {} if job.state.is_terminal else await self._progress_of({job.run_id})

    async def _progress_of(self, run_ids: Collection[str]) -> Mapping[str, Progress]:
        runs = await self.runs.many(run_ids)
        return {run.id: self.meters.snapshot(run, stage="inferring") for run in runs.values() if run.frames_total}

    async def _has_seen_end(self, job: Job, last_id: int) -> bool:
        """Whether `last_id` is the job's last event or a later one of its run, which may go on for others."""
        if not job.state.is_terminal:
            return False
        done_id = await self.events.done_id(job.id)
        return done_id is not None and last_id >= done_id

    async def _as_it_is_now(self, job: Job) -> Job | None:
        """None where there is nothing to follow any more: the job was deleted, or retried on another run."""
        try:
            now = await self.jobs.get(job.id)
        except JobNotFoundError:
            return None
        return now if now.run_id == job.run_id else None

    async def _stream_event(self, job: Job, event: Event, *, with_boxes: bool) -> StreamEvent:
        body = event.body
        if event.kind is EventKind.SEGMENT:
            # It belongs to the run, which several jobs may share; each follower is told of its own.
            body = {"job_id": job.id, **body}
            if with_boxes:
                body["detections"] = await self._boxes(job, event.body)
        return StreamEvent(kind=event.kind.value, id=event.id, body=body)

    async def _boxes(self, job: Job, segment: Mapping[str, JsonValue]) -> list[JsonValue]:
        first_frame, last_frame = segment["first_frame"], segment["last_frame"]
        if not isinstance(first_frame, int) or not isinstance(last_frame, int):
            return []
        run = await self.runs.get(job.run_id)
        detections = await self.results.of_frames(run, job.view, first_frame=first_frame, last_frame=last_frame)
        return detection_objects(detections, run.card.class_names)

    async def _last_progress(self, job: Job) -> StreamEvent | None:
        """Where the counter stands at the end: exactly 100 % for a job that succeeded."""
        run = await self.runs.get(job.run_id)
        if run.state is not RunState.SUCCEEDED:
            return None
        return _progress_event(job.id, self.meters.snapshot(run, stage="done"))


def _progress_news(job: Job, snapshots: Iterable[Progress], told: Told, pace: _Pace) -> list[StreamEvent]:
    """What a follower is to be told of its job's run, where that is not what it was told last."""
    news = [told.next(progress, job_id=job.id, attempt=job.attempt) for progress in snapshots]
    if any(news):
        pace.spoke()
    return [_progress_event(job.id, progress) for progress in news if progress]


def _progress_event(job_id: str, progress: Progress) -> StreamEvent:
    body: dict[str, JsonValue] = {"job_id": job_id, **progress_object(progress), "stage": progress.stage}
    return StreamEvent(kind="progress", id=None, body=body)
