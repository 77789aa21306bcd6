"""Jobs as rows: submitted, admitted, cancelled, expired and removed, each move with its events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.core.contract import ModelCard
from orchestrator.core.fair_queue import joining
from orchestrator.core.job_moves import events_of
from orchestrator.core.records import Failure, Job, Run
from orchestrator.core.states import JobState, RunState, SegmentState
from orchestrator.core.types import JobSpec, RunSpec
from orchestrator.errors import JobNotFoundError, JobTimeoutError, VideoNotFoundError
from orchestrator.ports import Page
from orchestrator.storage.engine import Database
from orchestrator.storage.ids import new_id
from orchestrator.storage.moves import RUNS, is_wanted, load_jobs, load_run, move_job, save_run, tell, times_at_work
from orchestrator.storage.pages import read_page
from orchestrator.storage.row_codec import job_row, run_row, to_job, to_run
from orchestrator.storage.tables import jobs, models, runs, segments, videos
from orchestrator.storage.uninterrupted import uninterrupted


@uninterrupted
class SqlJobStore:
    """`ports.JobStore` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(
        self, spec: JobSpec, *, card: ModelCard, video_id: str, owner: str, now: datetime
    ) -> tuple[Job, Run]:
        """As `ports.JobStore.submit`. Raises VideoNotFoundError when the video was removed meanwhile."""
        async with self._database.write() as connection:
            if not await _has_video(connection, video_id):
                raise VideoNotFoundError(f"there is no video {video_id:.80}; GET /v1/videos lists those there are")
            run = await _find_or_make_run(connection, spec.run, card=card, video_id=video_id, now=now)
            job = Job(
                id=new_id("job"),
                owner=owner,
                run_id=run.id,
                video_id=video_id,
                state=JobState.QUEUED,
                view=spec.view,
                priority=spec.priority,
                timeout_s=spec.timeout_s,
                tags=spec.tags,
                created_at=now,
            )
            await connection.execute(insert(jobs).values(job_row(job)))
            await tell(connection, events_of(job, run), job_id=job.id, now=now)
            if run.state is RunState.SUCCEEDED:
                job = await move_job(connection, job, run, JobState.SUCCEEDED, now=now)
        return job, run

    async def get(self, job_id: str) -> Job:
        async with self._database.read() as connection:
            return await _load_job(connection, job_id)

    async def page(
        self, *, limit: int, cursor: str | None, states: Collection[JobState] = (), model: str | None = None
    ) -> Page[Job]:
        rows = select(jobs)
        if states:
            rows = rows.where(jobs.c.state.in_(states))
        if model is not None:
            rows = rows.join(runs, runs.c.id == jobs.c.run_id).where(_is_of_model(model))
        async with self._database.read() as connection:
            return await read_page(connection, rows, seq=jobs.c.seq, to_item=to_job, limit=limit, cursor=cursor)

    async def queue_position(self, job: Job) -> int | None:
        async with self._database.read() as connection:
            place = (
                await connection.execute(
                    select(jobs.c.priority, jobs.c.seq).where(jobs.c.id == job.id, jobs.c.state == JobState.QUEUED)
                )
            ).first()
            if place is None:
                return None
            is_before = or_(
                jobs.c.priority > place.priority, and_(jobs.c.priority == place.priority, jobs.c.seq < place.seq)
            )
            before = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.QUEUED, is_before)
            return 1 + (await connection.execute(before)).scalar_one()

    async def counts(self) -> dict[JobState, int]:
        async with self._database.read() as connection:
            rows = await connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
            return dict.fromkeys(JobState, 0) | {state: count for state, count in rows}

    async def admit(self, *, max_running: int, now: datetime) -> Sequence[Job]:
        async with self._database.write() as connection:
            running = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.RUNNING)
            room = max_running - (await connection.execute(running)).scalar_one()
            queued = select(jobs).where(jobs.c.state == JobState.QUEUED).order_by(jobs.c.priority.desc(), jobs.c.seq)
            admitted = await load_jobs(connection, queued.limit(room)) if room > 0 else []
            return [await _admit_one(connection, job, now=now) for job in admitted]

    async def cancel(self, job_id: str, *, now: datetime) -> tuple[Job, bool]:
        async with self._database.write() as connection:
            job = await _load_job(connection, job_id)
            state = {JobState.QUEUED: JobState.CANCELLED, JobState.RUNNING: JobState.CANCELLING}.get(job.state)
            if state is None:
                return job, False
            return await move_job(connection, job, await load_run(connection, job.run_id), state, now=now), True

    async def settle_cancelled(self, *, now: datetime) -> Sequence[Job]:
        async with self._database.write() as connection:
            waiting = select(jobs).where(jobs.c.state == JobState.CANCELLING).order_by(jobs.c.seq)
            settled = []
            for job in await load_jobs(connection, waiting):
                if await is_wanted(connection, job.run_id) or not await _has_lease(connection, job.run_id, now):
                    run = await load_run(connection, job.run_id)
                    settled.append(await move_job(connection, job, run, JobState.CANCELLED, now=now))
            return settled

    async def expire(self, *, now: datetime) -> Sequence[Job]:
        limited = select(jobs).where(jobs.c.state == JobState.RUNNING, jobs.c.timeout_s.is_not(None))
        async with self._database.write() as connection:
            late = [job for job in await load_jobs(connection, limited.order_by(jobs.c.seq)) if _is_late(job, now)]
            return [
                await move_job(
                    connection,
                    job,
                    await load_run(connection, job.run_id),
                    JobState.FAILED,
                    now=now,
                    failure=_timeout_failure(job),
                )
                for job in late
            ]

    async def remove(self, job_id: str) -> str | None:
        """As `ports.JobStore.remove`. Raises JobNotFoundError."""
        async with self._database.write() as connection:
            job = await _load_job(connection, job_id)
            await connection.execute(delete(jobs).where(jobs.c.id == job_id))
            others = select(jobs.c.id).where(jobs.c.run_id == job.run_id).limit(1)
            if (await connection.execute(others)).first() is not None:
                return None
            await connection.execute(delete(runs).where(runs.c.id == job.run_id))
            return job.run_id

    async def of_run(self, run_id: str) -> Sequence[Job]:
        async with self._database.read() as connection:
            return await load_jobs(connection, select(jobs).where(jobs.c.run_id == run_id).order_by(jobs.c.seq))


async def _load_job(connection: AsyncConnection, job_id: str) -> Job:
    row = (await connection.execute(select(jobs).where(jobs.c.id == job_id))).mappings().one_or_none()
    if row is None:
        raise JobNotFoundError(f"there is no job {job_id:.80}; GET /v1/jobs lists those there are")
    return to_job(row)


async def _has_video(connection: AsyncConnection, video_id: str) -> bool:
    return (await connection.execute(select(videos.c.id).where(videos.c.id == video_id))).first() is not None


async def _find_or_make_run(
    connection: AsyncConnection, spec: RunSpec, *, card: ModelCard, video_id: str, now: datetime
) -> Run:
    found = (
        (await connection.execute(RUNS.where(runs.c.key == spec.key(), runs.c.state != RunState.FAILED)))
        .mappings()
        .one_or_none()
    )
    if found is None:
        return await _make_run(connection, spec, card=card, video_id=video_id, now=now)
    return to_run(found)


async def _make_run(
    connection: AsyncConnection, spec: RunSpec, *, card: ModelCard, video_id: str, now: datetime
) -> Run:
    known = select(models.c.digest).where(models.c.digest == spec.model.digest)
    if (await connection.execute(known)).first() is None:
        await connection.execute(insert(models).values(digest=spec.model.digest, card=card.to_json()))
    run = Run(id=new_id("run"), spec=spec, card=card, video_id=video_id, state=RunState.WAITING, created_at=now)
    await connection.execute(insert(runs).values(run_row(run)))
    return run


async def _admit_one(connection: AsyncConnection, job: Job, *, now: datetime) -> Job:
    run = await load_run(connection, job.run_id)
    if not await is_wanted(connection, run.id):
        run = replace(run, virtual_time=joining(run.virtual_time, await times_at_work(connection)))
        await save_run(connection, run)
    return await move_job(connection, job, run, JobState.RUNNING, now=now)


async def _has_lease(connection: AsyncConnection, run_id: str, now: datetime) -> bool:
    leased = select(segments.c.number).where(
        segments.c.run_id == run_id, segments.c.state == SegmentState.LEASED, segments.c.leased_until > now
    )
    return (await connection.execute(leased.limit(1))).first() is not None


def _is_late(job: Job, now: datetime) -> bool:
    if job.started_at is None or job.timeout_s is None:
        return False
    return now - job.started_at >= timedelta(seconds=job.timeout_s)


def _timeout_failure(job: Job) -> Failure:
    return Failure(
        code=JobTimeoutError.code,
        message=f"the job ran longer than its timeout_s of {job.timeout_s:g}; submit it again with a longer one",
    )


def _is_of_model(model: str) -> ColumnElement[Any]:
    name, colon, version = model.rpartition(":")
    if colon and version.isdecimal():
        return and_(runs.c.model_name == name, runs.c.model_version == int(version))
    return runs.c.model_name == model
