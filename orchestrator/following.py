"""Following jobs: durable events from the database, live progress from the bus, in one stream.

The database is the truth and the bus only a doorbell: a stream that missed every ring still tells
everything, and one that begins late or again tells each event once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.records import Event, EventKind, Job, JsonValue, Progress
from orchestrator.core.rendering import detection_objects, progress_object
from orchestrator.core.states import RunState
from orchestrator.errors import JobNotFoundError
from orchestrator.metering import Meters
from orchestrator.ports import EventBus, EventStore, JobStore, RunStore, Subscription, Wake
from orchestrator.results import Results
from orchestrator.waking import next_wake

PING_INTERVAL_S: Final = 15.0
PROGRESS_INTERVAL_S: Final = 0.2
EVENTS_A_READ: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """kind: state, segment, done or progress. id: None for progress, which is not replayed."""

    kind: str
    id: int | None
    body: Mapping[str, JsonValue]


@dataclass(slots=True)
class _Throttle:
    """Lets the newest snapshot of each run pass, all together at most once in `interval_s`."""

    interval_s: float
    monotonic_s: Callable[[], float]
    waiting: dict[str, Progress] = field(default_factory=dict)
    passed_s: float = float("-inf")

    def add(self, snapshots: Mapping[str, Progress]) -> None:
        self.waiting.update(snapshots)

    def take(self) -> list[Progress]:
        if not self.waiting or self.due_in_s() > 0:
            return []
        self.passed_s = self.monotonic_s()
        taken = list(self.waiting.values())
        self.waiting.clear()
        return taken

    def due_in_s(self) -> float:
        return max(0.0, self.passed_s + self.interval_s - self.monotonic_s())


@dataclass(slots=True)
class _Looks:
    """When to look into the database: progress comes many times a second and says nothing of it."""

    monotonic_s: Callable[[], float]
    looked_s: float = float("-inf")

    def is_due(self, wake: Wake | None) -> bool:
        """Whether to look after this wake: it rang, or it was quiet, or a ring may have been missed meanwhile."""
        is_due = wake is None or wake.rang or self.monotonic_s() - self.looked_s >= PING_INTERVAL_S
        if is_due:
            self.looked_s = self.monotonic_s()
        return is_due


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

        Ends with `done`, when the job is deleted, and when the server stops.

        with_boxes: segment events carry the detections of the job's own view. Raises JobNotFoundError.
        """
        job = await self.jobs.get(job_id)
        throttle = _Throttle(PROGRESS_INTERVAL_S, self.monotonic_s)
        async with self.bus.subscribe(job.id, job.run_id) as subscription:
            throttle.add(await self._progress_so_far(job))
            if await self._has_seen_end(job, last_id):
                return
            looks = _Looks(self.monotonic_s)
            wake: Wake | None = None
            while True:
                async for event in self._new_events(job, last_id, is_due=looks.is_due(wake)):
                    last_id = event.id
                    if event.kind is EventKind.DONE and (last := await self._last_progress(job)):
                        yield last
                    yield await self._stream_event(job, event, with_boxes=with_boxes)
                    if event.kind is EventKind.DONE:
                        return
                for progress in throttle.take():
                    yield _progress_event(job.id, progress)
                wake = await self._wake(subscription, throttle)
                if self.stopping.is_set():
                    return
                if wake is None:
                    yield None
                elif wake.rang and not await self._exists(job.id):
                    return
                else:
                    throttle.add(wake.progress)

    async def all_jobs(self, *, last_id: int | None = None) -> AsyncIterator[StreamEvent | None]:
        """States and progress of every job, after `last_id` or from now on; None when it was quiet for 15 s."""
        throttle = _Throttle(PROGRESS_INTERVAL_S, self.monotonic_s)
        async with self.bus.subscribe() as subscription:
            seen_id = await self.events.last_id() if last_id is None else last_id
            while True:
                page: Sequence[Event] | None = None
                while page is None or len(page) == EVENTS_A_READ:
                    page = await self.events.of_all_jobs_after(last_id=seen_id, limit=EVENTS_A_READ)
                    for event in page:
                        seen_id = event.id
                        yield StreamEvent(kind=event.kind.value, id=event.id, body=event.body)
                for progress in throttle.take():
                    for job in await self.jobs.of_run(progress.run_id):
                        if not job.state.is_terminal:
                            yield _progress_event(job.id, progress)
                wake = await self._wake(subscription, throttle)
                if self.stopping.is_set():
                    return
                if wake is None:
                    yield None
                else:
                    throttle.add(wake.progress)

    async def _wake(self, subscription: Subscription, throttle: _Throttle) -> Wake | None:
        """The next news, or that held-back progress is due; None when 15 s have passed or the server stops."""
        timeout_s = throttle.due_in_s() if throttle.waiting else PING_INTERVAL_S
        wake = await next_wake(subscription, self.stopping, timeout_s=timeout_s)
        return wake if wake.rang or wake.progress or throttle.waiting else None

    async def _new_events(self, job: Job, last_id: int, *, is_due: bool) -> AsyncIterator[Event]:
        """All events after `last_id` that are there by now; none where no look is due."""
        page: Sequence[Event] | None = None if is_due else ()
        while page is None or len(page) == EVENTS_A_READ:
            page = await self.events.after(job, last_id=last_id, limit=EVENTS_A_READ)
            for event in page:
                last_id = event.id
                yield event

    async def _progress_so_far(self, job: Job) -> Mapping[str, Progress]:
        """What a watcher that comes late is shown at once."""
        run = await self.runs.get(job.run_id)
        if run.frames_total is None or job.state.is_terminal:
            return {}
        return {run.id: self.meters.snapshot(run, stage="inferring")}

    async def _has_seen_end(self, job: Job, last_id: int) -> bool:
        """Whether `last_id` is the job's last event or a later one of its run, which may go on for others."""
        if not job.state.is_terminal:
            return False
        done_id = await self.events.done_id(job.id)
        return done_id is not None and last_id >= done_id

    async def _exists(self, job_id: str) -> bool:
        try:
            await self.jobs.get(job_id)
        except JobNotFoundError:
            return False
        return True

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


def _progress_event(job_id: str, progress: Progress) -> StreamEvent:
    body: dict[str, JsonValue] = {"job_id": job_id, **progress_object(progress), "stage": progress.stage}
    return StreamEvent(kind="progress", id=None, body=body)
