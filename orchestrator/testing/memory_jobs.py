"""`VideoStore`, `JobStore` and `EventStore` in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from orchestrator.core.contract import ModelCard
from orchestrator.core.job_moves import check_retriable, events_of, queued_job, reopened_run
from orchestrator.core.records import KEY_KEPT_FOR, Event, EventKind, Failure, IdempotencyKey, Job, Run, Video
from orchestrator.core.states import IndexState, JobState, RunState, SegmentState
from orchestrator.core.types import IndexReport, JobSpec, RunSpec
from orchestrator.core.waiting import joined
from orchestrator.errors import IdempotencyKeyReusedError, JobTimeoutError, VideoInUseError
from orchestrator.ports import Page
from orchestrator.testing.world import World, page_of


@dataclass(frozen=True, slots=True)
class MemoryVideoStore:
    world: World

    async def add(self, video: Video) -> None:
        self.world.videos[video.id] = video

    async def get(self, video_id: str) -> Video:
        return self.world.video(video_id)

    async def many(self, video_ids: Collection[str]) -> dict[str, Video]:
        return {video_id: video for video_id, video in self.world.videos.items() if video_id in video_ids}

    async def page(self, *, limit: int, cursor: str | None) -> Page[Video]:
        return page_of(list(self.world.videos.values()), limit=limit, cursor=cursor)

    async def pending_index(self) -> Sequence[Video]:
        return [video for video in self.world.videos.values() if video.index_state is IndexState.PENDING]

    async def set_indexed(self, video_id: str, report: IndexReport) -> None:
        video = self.world.video(video_id)
        self.world.videos[video_id] = replace(video, index_state=IndexState.READY, report=report, index_failure=None)

    async def set_index_failed(self, video_id: str, failure: Failure) -> None:
        video = self.world.video(video_id)
        self.world.videos[video_id] = replace(video, index_state=IndexState.FAILED, report=None, index_failure=failure)

    async def remove(self, video_id: str) -> None:
        self.world.video(video_id)
        for job in self.world.jobs.values():
            if video_id in (job.video_id, self.world.runs[job.run_id].video_id):
                raise VideoInUseError(f"a job refers to video {video_id}; delete the job first")
        del self.world.videos[video_id]

    async def ids(self) -> frozenset[str]:
        return frozenset(self.world.videos)


@dataclass(frozen=True, slots=True)
class MemoryJobStore:
    world: World

    async def submit(
        self, spec: JobSpec, *, card: ModelCard, video_id: str, owner: str, now: datetime
    ) -> tuple[Job, Run]:
        self.world.video(video_id)
        run = self._find_or_make_run(spec.run, card=card, video_id=video_id, now=now)
        job = queued_job(spec, job_id=self.world.new_id("job"), owner=owner, run_id=run.id, video_id=video_id, now=now)
        self.world.jobs[job.id] = job
        self.world.tell(events_of(job, run), job_id=job.id, now=now)
        if run.state is RunState.SUCCEEDED:
            job = self.world.move(job, JobState.SUCCEEDED, now=now)
        return job, run

    async def submit_once(
        self, spec: JobSpec, *, key: IdempotencyKey, card: ModelCard, video_id: str, owner: str, now: datetime
    ) -> tuple[Job, Run, bool]:
        oldest = now - KEY_KEPT_FOR
        self.world.keys = {name: made for name, made in self.world.keys.items() if made[2] >= oldest}
        found = await self.submitted(key, owner=owner)
        if found is not None:
            return found, self.world.runs[found.run_id], True
        job, run = await self.submit(spec, card=card, video_id=video_id, owner=owner, now=now)
        self.world.keys[owner, key.text] = (key, job.id, now)
        return job, run, False

    async def submitted(self, key: IdempotencyKey, *, owner: str) -> Job | None:
        if (owner, key.text) not in self.world.keys:
            return None
        known, job_id, _ = self.world.keys[owner, key.text]
        if known != key:
            raise IdempotencyKeyReusedError(f"this Idempotency-Key has named another request, which made job {job_id}")
        return self.world.job(job_id)

    async def get(self, job_id: str) -> Job:
        return self.world.job(job_id)

    async def page(
        self, *, limit: int, cursor: str | None, states: Collection[JobState] = (), model: str | None = None
    ) -> Page[Job]:
        shown = [
            job
            for job in self.world.jobs.values()
            if (not states or job.state in states) and (model is None or self._is_of_model(job, model))
        ]
        return page_of(shown, limit=limit, cursor=cursor)

    async def queue_positions(self, job_ids: Collection[str]) -> dict[str, int]:
        queue = [job.id for job in self._queue()]
        return {job_id: position for position, job_id in enumerate(queue, start=1) if job_id in job_ids}

    async def counts(self) -> dict[JobState, int]:
        return {state: len(self.world.jobs_in(state)) for state in JobState}

    async def admit(self, *, max_running: int, now: datetime) -> Sequence[Job]:
        room = max(0, max_running - len(self.world.jobs_in(JobState.RUNNING)))
        return [self._admit_one(job, now=now) for job in self._queue()[:room]]

    async def cancel(self, job_id: str, *, now: datetime) -> tuple[Job, bool]:
        job = self.world.job(job_id)
        state = {JobState.QUEUED: JobState.CANCELLED, JobState.RUNNING: JobState.CANCELLING}.get(job.state)
        return (job, False) if state is None else (self.world.move(job, state, now=now), True)

    async def retry(self, job_id: str, *, now: datetime) -> tuple[Job, str | None]:
        old = self.world.job(job_id)
        check_retriable(old)
        run = self._run_of_retry(old, now=now)
        self.world.events = [
            event for event in self.world.events if (event.job_id, event.kind) != (job_id, EventKind.DONE)
        ]
        job = self.world.move(replace(old, run_id=run.id), JobState.QUEUED, now=now)
        if run.state is RunState.SUCCEEDED:
            job = self.world.move(job, JobState.SUCCEEDED, now=now)
        return job, self._forget_orphan(old.run_id)

    async def settle_cancelled(self, *, now: datetime) -> Sequence[Job]:
        return [
            self.world.move(job, JobState.CANCELLED, now=now)
            for job in self.world.jobs_in(JobState.CANCELLING)
            if self.world.is_wanted(job.run_id) or not self._has_lease(job.run_id, now)
        ]

    async def expire(self, *, now: datetime) -> Sequence[Job]:
        expired = []
        for job in self.world.jobs_in(JobState.RUNNING):
            if job.timeout_s is None or job.started_at is None:
                continue
            if now - job.started_at >= timedelta(seconds=job.timeout_s):
                failure = Failure(code=JobTimeoutError.code, message="the job ran longer than its timeout_s")
                expired.append(self.world.move(job, JobState.FAILED, now=now, failure=failure))
        return expired

    async def remove(self, job_id: str) -> str | None:
        job = self.world.job(job_id)
        del self.world.jobs[job_id]
        self.world.events = [event for event in self.world.events if event.job_id != job_id]
        return self._forget_orphan(job.run_id)

    async def of_run(self, run_id: str) -> Sequence[Job]:
        return [job for job in self.world.jobs.values() if job.run_id == run_id]

    def _forget_orphan(self, run_id: str) -> str | None:
        if any(job.run_id == run_id for job in self.world.jobs.values()):
            return None
        self.world.forget_run(run_id)
        return run_id

    def _run_of_retry(self, job: Job, *, now: datetime) -> Run:
        run = self.world.runs[job.run_id]
        if run.state is not RunState.FAILED:
            return run
        specs = [other.spec for other in self.world.runs.values() if other.state is not RunState.FAILED]
        reopened = None if run.spec in specs else reopened_run(run)
        if reopened is None:
            return self._find_or_make_run(run.spec, card=run.card, video_id=job.video_id, now=now)
        self.world.set_run(reopened)
        return reopened

    def _find_or_make_run(self, spec: RunSpec, *, card: ModelCard, video_id: str, now: datetime) -> Run:
        for run in self.world.runs.values():
            if run.spec == spec and run.state is not RunState.FAILED:
                return run
        run_id = self.world.new_id("run")
        self.world.set_run(
            Run(id=run_id, spec=spec, card=card, video_id=video_id, state=RunState.WAITING, created_at=now)
        )
        return self.world.runs[run_id]

    def _queue(self) -> list[Job]:
        """Next first; sorting keeps the older of two with one priority before the younger."""
        return sorted(self.world.jobs_in(JobState.QUEUED), key=lambda job: -job.priority)

    def _admit_one(self, job: Job, *, now: datetime) -> Job:
        run = self.world.runs[job.run_id]
        if not self.world.is_wanted(run.id):
            at_work = [other.virtual_time for other in self.world.runs_at_work()]
            self.world.set_run(joined(run, at_work))
        return self.world.move(job, JobState.RUNNING, now=now)

    def _has_lease(self, run_id: str, now: datetime) -> bool:
        return any(
            segment.state is SegmentState.LEASED and not segment.is_expired(now)
            for segment in self.world.segments.get(run_id, [])
        )

    def _is_of_model(self, job: Job, model: str) -> bool:
        version = self.world.runs[job.run_id].spec.model
        return model in (version.name, str(version))


@dataclass(frozen=True, slots=True)
class MemoryEventStore:
    world: World

    async def after(self, job: Job, *, last_id: int, limit: int) -> Sequence[Event]:
        own = [event for event in self.world.events if event.job_id == job.id or event.run_id == job.run_id]
        return [event for event in own if event.id > last_id][:limit]

    async def of_all_jobs_after(self, *, last_id: int, limit: int) -> Sequence[Event]:
        return [event for event in self.world.events if event.job_id is not None and event.id > last_id][:limit]

    async def last_id(self) -> int:
        return max((event.id for event in self.world.events), default=0)

    async def done_id(self, job_id: str) -> int | None:
        dones = [event.id for event in self.world.events if event.job_id == job_id and event.kind is EventKind.DONE]
        return max(dones, default=None)
