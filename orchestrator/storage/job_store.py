"""Jobs as rows: submitted, admitted, cancelled, expired and removed, each move with its events.

What polls looks first, in a reading transaction, whether there is anything to be done: most often there is not, and
nobody then waits for a turn to write.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, select

from orchestrator.core.contract import ModelCard
from orchestrator.core.job_moves import check_retriable
from orchestrator.core.records import KEY_KEPT_FOR, EventKind, Failure, IdempotencyKey, Job, Run
from orchestrator.core.states import JobState, RunState, SegmentState
from orchestrator.core.types import JobSpec
from orchestrator.core.waiting import joined
from orchestrator.errors import JobNotFoundError, JobTimeoutError
from orchestrator.ports import Page
from orchestrator.storage.job_making import find_submitted, forget_keys, insert_job, insert_key, run_of_retry
from orchestrator.storage.moves import (
    is_any,
    is_wanted,
    load_jobs,
    load_run,
    move_job,
    save_run,
    times_at_work,
)
from orchestrator.storage.pages import read_page
from orchestrator.storage.row_codec import to_job
from orchestrator.storage.tables import events, jobs, runs, segments
from orchestrator.storage.transactions import SqlStore, reading, writing

JOBS: Final = select(jobs)
JOB: Final = JOBS.where(jobs.c.id == bindparam("job_id"))
JOBS_OF_RUN: Final = JOBS.where(jobs.c.run_id == bindparam("run_id")).order_by(jobs.c.seq)
JOB_OF_RUN: Final = select(jobs.c.seq).where(jobs.c.run_id == bindparam("run_id")).limit(1)
CANCELLING_JOBS: Final = JOBS.where(jobs.c.state == JobState.CANCELLING).order_by(jobs.c.seq)
LIMITED_JOBS: Final = JOBS.where(jobs.c.state == JobState.RUNNING, jobs.c.timeout_s.is_not(None)).order_by(jobs.c.seq)
NEXT_FIRST: Final = (jobs.c.priority.desc(), jobs.c.seq)
QUEUED_JOBS: Final = JOBS.where(jobs.c.state == JobState.QUEUED)
QUEUED_JOB: Final = select(jobs.c.seq).where(jobs.c.state == JobState.QUEUED).limit(1)
NEXT_QUEUED_JOBS: Final = QUEUED_JOBS.order_by(*NEXT_FIRST).limit(bindparam("room"))
COUNT_BY_STATE: Final = select(jobs.c.state, func.count()).group_by(jobs.c.state)
COUNT_RUNNING: Final = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.RUNNING)
# The whole queue from its index, numbered once, and not counted for each job.
QUEUE: Final = (
    select(jobs.c.seq, func.row_number().over(order_by=NEXT_FIRST).label("position"))
    .where(jobs.c.state == JobState.QUEUED)
    .subquery()
)
QUEUE_POSITIONS: Final = (
    select(jobs.c.id, QUEUE.c.position)
    .join(QUEUE, QUEUE.c.seq == jobs.c.seq)
    .where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))
)
DELETE_JOB: Final = delete(jobs).where(jobs.c.id == bindparam("job_id"))
# A stream ends with the last one there is; what came before the end is still told.
FORGET_END: Final = delete(events).where(events.c.job_id == bindparam("job_id"), events.c.kind == EventKind.DONE)
DELETE_RUN: Final = delete(runs).where(runs.c.id == bindparam("run_id"))
LEASED_SEGMENT: Final = (
    select(segments.c.number)
    .where(
        segments.c.run_id == bindparam("run_id"),
        segments.c.state == SegmentState.LEASED,
        segments.c.leased_until > bindparam("now"),
    )
    .limit(1)
)


class SqlJobStore(SqlStore):
    """`ports.JobStore` in a database."""

    @writing
    def submit(
        self, connection: Connection, spec: JobSpec, *, card: ModelCard, video_id: str, owner: str, now: datetime
    ) -> tuple[Job, Run]:
        return insert_job(connection, spec, card=card, video_id=video_id, owner=owner, now=now)

    @writing
    def submit_once(
        self,
        connection: Connection,
        spec: JobSpec,
        *,
        key: IdempotencyKey,
        card: ModelCard,
        video_id: str,
        owner: str,
        now: datetime,
    ) -> tuple[Job, Run, bool]:
        forget_keys(connection, before=now - KEY_KEPT_FOR)
        found = find_submitted(connection, key, owner=owner)
        if found is not None:
            return found, load_run(connection, found.run_id), True
        job, run = insert_job(connection, spec, card=card, video_id=video_id, owner=owner, now=now)
        insert_key(connection, key, job)
        return job, run, False

    @reading
    def submitted(self, connection: Connection, key: IdempotencyKey, *, owner: str) -> Job | None:
        return find_submitted(connection, key, owner=owner)

    @reading
    def get(self, connection: Connection, job_id: str) -> Job:
        return _load_job(connection, job_id)

    @reading
    def page(
        self,
        connection: Connection,
        *,
        limit: int,
        cursor: str | None,
        states: Collection[JobState] = (),
        model: str | None = None,
    ) -> Page[Job]:
        rows = JOBS
        if states:
            rows = rows.where(jobs.c.state.in_(states))
        if model is not None:
            rows = rows.join(runs, runs.c.id == jobs.c.run_id).where(_is_of_model(model))
        return read_page(connection, rows, seq=jobs.c.seq, to_item=to_job, limit=limit, cursor=cursor)

    async def queue_positions(self, job_ids: Collection[str]) -> dict[str, int]:
        if not job_ids:
            return {}
        return await self.database.read(lambda connection: _queue_positions(connection, job_ids))

    @reading
    def counts(self, connection: Connection) -> dict[JobState, int]:
        return dict.fromkeys(JobState, 0) | {state: count for state, count in connection.execute(COUNT_BY_STATE)}

    async def admit(self, *, max_running: int, now: datetime) -> Sequence[Job]:
        if not await self.database.read(lambda connection: _next_in_queue(connection, max_running)):
            return []
        return await self.database.write(
            lambda connection: [_admit_one(connection, job, now=now) for job in _next_in_queue(connection, max_running)]
        )

    @writing
    def cancel(self, connection: Connection, job_id: str, *, now: datetime) -> tuple[Job, bool]:
        job = _load_job(connection, job_id)
        state = {JobState.QUEUED: JobState.CANCELLED, JobState.RUNNING: JobState.CANCELLING}.get(job.state)
        if state is None:
            return job, False
        return move_job(connection, job, load_run(connection, job.run_id), state, now=now), True

    @writing
    def retry(self, connection: Connection, job_id: str, *, now: datetime) -> tuple[Job, str | None]:
        """As `ports.JobStore.retry`. Raises JobNotFoundError, TransitionError."""
        old = _load_job(connection, job_id)
        check_retriable(old)
        run = run_of_retry(connection, old, now=now)
        connection.execute(FORGET_END, {"job_id": job_id})
        job = move_job(connection, replace(old, run_id=run.id), run, JobState.QUEUED, now=now)
        if run.state is RunState.SUCCEEDED:
            job = move_job(connection, job, run, JobState.SUCCEEDED, now=now)
        return job, _delete_orphan(connection, old.run_id)

    async def settle_cancelled(self, *, now: datetime) -> Sequence[Job]:
        if not await self.database.read(lambda connection: _to_settle(connection, now)):
            return []
        return await self.database.write(
            lambda connection: [
                move_job(connection, job, load_run(connection, job.run_id), JobState.CANCELLED, now=now)
                for job in _to_settle(connection, now)
            ]
        )

    async def expire(self, *, now: datetime) -> Sequence[Job]:
        if not await self.database.read(lambda connection: _late(connection, now)):
            return []
        return await self.database.write(
            lambda connection: [_expire_one(connection, job, now=now) for job in _late(connection, now)]
        )

    @writing
    def remove(self, connection: Connection, job_id: str) -> str | None:
        """As `ports.JobStore.remove`. Raises JobNotFoundError."""
        run_id = _load_job(connection, job_id).run_id
        connection.execute(DELETE_JOB, {"job_id": job_id})
        return _delete_orphan(connection, run_id)

    @reading
    def of_run(self, connection: Connection, run_id: str) -> Sequence[Job]:
        return load_jobs(connection, JOBS_OF_RUN, {"run_id": run_id})


def _load_job(connection: Connection, job_id: str) -> Job:
    row = connection.execute(JOB, {"job_id": job_id}).mappings().one_or_none()
    if row is None:
        raise JobNotFoundError(f"there is no job {job_id:.80}; GET /v1/jobs lists those there are")
    return to_job(row)


def _queue_positions(connection: Connection, job_ids: Collection[str]) -> dict[str, int]:
    return {job_id: position for job_id, position in connection.execute(QUEUE_POSITIONS, {"job_ids": list(job_ids)})}


def _delete_orphan(connection: Connection, run_id: str) -> str | None:
    """Delete the run if no job has it any more; its id if so."""
    if is_any(connection, JOB_OF_RUN, {"run_id": run_id}):
        return None
    connection.execute(DELETE_RUN, {"run_id": run_id})
    return run_id


def _next_in_queue(connection: Connection, max_running: int) -> Sequence[Job]:
    """The queued jobs that there is room for."""
    if not is_any(connection, QUEUED_JOB):
        return ()
    room = max_running - connection.execute(COUNT_RUNNING).scalar_one()
    return load_jobs(connection, NEXT_QUEUED_JOBS, {"room": room}) if room > 0 else ()


def _admit_one(connection: Connection, job: Job, *, now: datetime) -> Job:
    run = load_run(connection, job.run_id)
    if not is_wanted(connection, run.id):
        run = joined(run, times_at_work(connection))
        save_run(connection, run)
    return move_job(connection, job, run, JobState.RUNNING, now=now)


def _to_settle(connection: Connection, now: datetime) -> Sequence[Job]:
    """CANCELLING jobs that no lease stands for."""
    return [
        job
        for job in load_jobs(connection, CANCELLING_JOBS)
        if is_wanted(connection, job.run_id)
        or not is_any(connection, LEASED_SEGMENT, {"run_id": job.run_id, "now": now})
    ]


def _late(connection: Connection, now: datetime) -> Sequence[Job]:
    return [job for job in load_jobs(connection, LIMITED_JOBS) if _is_late(job, now)]


def _is_late(job: Job, now: datetime) -> bool:
    if job.started_at is None or job.timeout_s is None:
        return False
    return now - job.started_at >= timedelta(seconds=job.timeout_s)


def _expire_one(connection: Connection, job: Job, *, now: datetime) -> Job:
    failure = Failure(
        code=JobTimeoutError.code,
        message=f"the job ran longer than its timeout_s of {job.timeout_s:g}; submit it again with a longer one",
    )
    return move_job(connection, job, load_run(connection, job.run_id), JobState.FAILED, now=now, failure=failure)


def _is_of_model(model: str) -> ColumnElement[Any]:
    name, colon, version = model.rpartition(":")
    if colon and version.isdecimal():
        return and_(runs.c.model_name == name, runs.c.model_version == int(version))
    return runs.c.model_name == model
