"""Steps inside a transaction that several stores take: load, save, and move jobs together with their events.

Statements stand at module level, here and in the stores: SQLAlchemy then works out only once what each is compiled to,
which otherwise costs more than the database does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, insert, select, update

from orchestrator.core.job_moves import EventDraft, events_of, moved_job
from orchestrator.core.records import Failure, Job, Run
from orchestrator.core.states import LIVE_JOB_STATES, JobState, RunState
from orchestrator.errors import NotFoundError
from orchestrator.storage.row_codec import Row, job_row, run_progress_row, to_job, to_run
from orchestrator.storage.tables import events, jobs, models, runs, segments

RUNS: Final = select(runs, models.c.card).join(models, models.c.digest == runs.c.model_digest)
RUN: Final = RUNS.where(runs.c.id == bindparam("run_id"))
# These take the columns to be set as further parameters.
UPDATE_RUN: Final = update(runs).where(runs.c.id == bindparam("of_run"))
UPDATE_JOB: Final = update(jobs).where(jobs.c.id == bindparam("of_job"))
UPDATE_SEGMENT: Final = update(segments).where(
    segments.c.run_id == bindparam("of_run"), segments.c.number == bindparam("of_number")
)
INSERT_EVENT: Final = insert(events)
LIVE_JOBS: Final = (
    select(jobs).where(jobs.c.run_id == bindparam("run_id"), jobs.c.state.in_(LIVE_JOB_STATES)).order_by(jobs.c.seq)
)
WANTING_JOB: Final = (
    select(jobs.c.id).where(jobs.c.run_id == bindparam("run_id"), jobs.c.state == JobState.RUNNING).limit(1)
)
# Runs that RUNNING jobs want, once for each job. A join, since SQLite would ask `runs.id IN (...)` of every run in some
# state; running jobs are few, runs are not.
WANTED_RUNS: Final = select(runs.c.id).join(jobs, jobs.c.run_id == runs.c.id).where(jobs.c.state == JobState.RUNNING)
TIMES_AT_WORK: Final = WANTED_RUNS.with_only_columns(runs.c.virtual_time).where(runs.c.state == RunState.OPEN)


def is_any(connection: Connection, rows: Select[Any], parameters: Row | None = None) -> bool:
    """Whether there is a row."""
    return connection.execute(rows, parameters).first() is not None


def load_run(connection: Connection, run_id: str) -> Run:
    """Raises NotFoundError."""
    row = connection.execute(RUN, {"run_id": run_id}).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"there is no run {run_id}")
    return to_run(row)


def load_runs(connection: Connection, rows: Select[Any], parameters: Row | None = None) -> list[Run]:
    """rows: `RUNS`, narrowed."""
    return [to_run(row) for row in connection.execute(rows, parameters).mappings()]


def save_run(connection: Connection, run: Run) -> None:
    connection.execute(UPDATE_RUN, {"of_run": run.id, **run_progress_row(run)})


def load_jobs(connection: Connection, rows: Select[Any], parameters: Row | None = None) -> list[Job]:
    """rows: of `jobs`, narrowed and ordered."""
    return [to_job(row) for row in connection.execute(rows, parameters).mappings()]


def live_jobs(connection: Connection, run_id: str) -> list[Job]:
    """Oldest first."""
    return load_jobs(connection, LIVE_JOBS, {"run_id": run_id})


def move_job(
    connection: Connection, job: Job, run: Run, state: JobState, *, now: datetime, failure: Failure | None = None
) -> Job:
    """Move a job and tell of it. Raises TransitionError."""
    job = moved_job(job, state, now=now, failure=failure)
    connection.execute(UPDATE_JOB, {"of_job": job.id, **job_row(job)})
    tell(connection, events_of(job, run), job_id=job.id, now=now)
    return job


def tell(
    connection: Connection,
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
    connection.execute(INSERT_EVENT, rows)


def is_wanted(connection: Connection, run_id: str) -> bool:
    """Whether a RUNNING job wants the run."""
    return is_any(connection, WANTING_JOB, {"run_id": run_id})


def times_at_work(connection: Connection) -> Sequence[float]:
    """Virtual times of the OPEN runs that RUNNING jobs want."""
    return connection.execute(TIMES_AT_WORK).scalars().all()
