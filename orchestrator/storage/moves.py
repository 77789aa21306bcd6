"""Steps inside a transaction that several stores take: load, save, and move jobs together with their events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.core.job_moves import EventDraft, events_of, moved_job
from orchestrator.core.records import Failure, Job, Run
from orchestrator.core.states import LIVE_JOB_STATES, JobState, RunState
from orchestrator.errors import NotFoundError
from orchestrator.storage.row_codec import job_row, run_progress_row, to_job, to_run
from orchestrator.storage.tables import events, jobs, models, runs

RUNS = select(runs, models.c.card).join(models, models.c.digest == runs.c.model_digest)


async def load_run(connection: AsyncConnection, run_id: str) -> Run:
    """Raises NotFoundError."""
    row = (await connection.execute(RUNS.where(runs.c.id == run_id))).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"there is no run {run_id}")
    return to_run(row)


async def load_runs(connection: AsyncConnection, rows: Select[Any]) -> list[Run]:
    """rows: `RUNS`, narrowed."""
    return [to_run(row) for row in (await connection.execute(rows)).mappings()]


async def save_run(connection: AsyncConnection, run: Run) -> None:
    await connection.execute(update(runs).where(runs.c.id == run.id).values(run_progress_row(run)))


async def load_jobs(connection: AsyncConnection, rows: Select[Any]) -> list[Job]:
    """rows: of `jobs`, narrowed and ordered."""
    return [to_job(row) for row in (await connection.execute(rows)).mappings()]


async def live_jobs(connection: AsyncConnection, run_id: str) -> list[Job]:
    """Oldest first."""
    return await load_jobs(
        connection,
        select(jobs).where(jobs.c.run_id == run_id, jobs.c.state.in_(LIVE_JOB_STATES)).order_by(jobs.c.seq),
    )


async def move_job(
    connection: AsyncConnection, job: Job, run: Run, state: JobState, *, now: datetime, failure: Failure | None = None
) -> Job:
    """Move a job and tell of it. Raises TransitionError."""
    job = moved_job(job, state, now=now, failure=failure)
    await connection.execute(update(jobs).where(jobs.c.id == job.id).values(job_row(job)))
    await tell(connection, events_of(job, run), job_id=job.id, now=now)
    return job


async def tell(
    connection: AsyncConnection,
    drafts: Iterable[EventDraft],
    *,
    job_id: str | None = None,
    run_id: str | None = None,
    now: datetime,
) -> None:
    """Append events, of a job or of a run."""
    rows = [
        {"kind": kind, "job_id": job_id, "run_id": run_id, "body": body, "created_at": now} for kind, body in drafts
    ]
    await connection.execute(insert(events), rows)


async def is_wanted(connection: AsyncConnection, run_id: str) -> bool:
    """Whether a RUNNING job wants the run."""
    wanting = select(jobs.c.id).where(jobs.c.run_id == run_id, jobs.c.state == JobState.RUNNING).limit(1)
    return (await connection.execute(wanting)).first() is not None


async def times_at_work(connection: AsyncConnection) -> Sequence[float]:
    """Virtual times of the OPEN runs that RUNNING jobs want."""
    running = select(jobs.c.run_id).where(jobs.c.state == JobState.RUNNING)
    at_work = select(runs.c.virtual_time).where(runs.c.state == RunState.OPEN, runs.c.id.in_(running))
    return (await connection.execute(at_work)).scalars().all()
