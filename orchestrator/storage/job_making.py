"""How jobs and their runs come to be, and under which keys: steps inside a transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, select

from orchestrator.core.contract import ModelCard
from orchestrator.core.job_moves import events_of, queued_job, reopened_run
from orchestrator.core.records import IdempotencyKey, Job, Run
from orchestrator.core.states import JobState, RunState
from orchestrator.core.types import JobSpec, RunSpec
from orchestrator.errors import IdempotencyKeyReusedError, JobNotFoundError, VideoNotFoundError
from orchestrator.storage.ids import new_id
from orchestrator.storage.moves import RUNS, is_any, load_run, move_job, save_run, tell
from orchestrator.storage.row_codec import job_row, run_row, to_job, to_run
from orchestrator.storage.tables import idempotency_keys, jobs, models, runs, videos

INSERT_JOB: Final = insert(jobs)
VIDEO_ID: Final = select(videos.c.id).where(videos.c.id == bindparam("video_id"))
RUN_OF_SPEC: Final = RUNS.where(runs.c.key == bindparam("key"), runs.c.state != RunState.FAILED)
INSERT_RUN: Final = insert(runs)
MODEL_DIGEST: Final = select(models.c.digest).where(models.c.digest == bindparam("digest"))
INSERT_MODEL: Final = insert(models)
INSERT_KEY: Final = insert(idempotency_keys)
# A key stays when its job is deleted: the columns of the job are then empty.
KEY_AND_JOB: Final = (
    select(idempotency_keys.c.request_sha256, idempotency_keys.c.job_id.label("made_job_id"), jobs)
    .join_from(idempotency_keys, jobs, jobs.c.id == idempotency_keys.c.job_id, isouter=True)
    .where(idempotency_keys.c.owner == bindparam("of_owner"), idempotency_keys.c.key == bindparam("key"))
)
FORGET_KEYS: Final = delete(idempotency_keys).where(idempotency_keys.c.created_at < bindparam("before"))


def insert_job(
    connection: Connection, spec: JobSpec, *, card: ModelCard, video_id: str, owner: str, now: datetime
) -> tuple[Job, Run]:
    """As `ports.JobStore.submit`. Raises VideoNotFoundError when the video was removed meanwhile."""
    if not is_any(connection, VIDEO_ID, {"video_id": video_id}):
        raise VideoNotFoundError(f"there is no video {video_id:.80}; GET /v1/videos lists those there are")
    run = find_or_make_run(connection, spec.run, card=card, video_id=video_id, now=now)
    job = queued_job(spec, job_id=new_id("job"), owner=owner, run_id=run.id, video_id=video_id, now=now)
    connection.execute(INSERT_JOB, job_row(job))
    tell(connection, events_of(job, run), job_id=job.id, now=now)
    if run.state is RunState.SUCCEEDED:
        job = move_job(connection, job, run, JobState.SUCCEEDED, now=now)
    return job, run


def find_or_make_run(connection: Connection, spec: RunSpec, *, card: ModelCard, video_id: str, now: datetime) -> Run:
    """The run of the spec, unless it failed; else a new one."""
    found = connection.execute(RUN_OF_SPEC, {"key": spec.key()}).mappings().one_or_none()
    if found is None:
        return _make_run(connection, spec, card=card, video_id=video_id, now=now)
    return to_run(found)


def run_of_retry(connection: Connection, job: Job, *, now: datetime) -> Run:
    """The run that a retried job goes on with, as `ports.JobStore.retry` says."""
    run = load_run(connection, job.run_id)
    if run.state is not RunState.FAILED:
        return run
    is_made_anew = is_any(connection, RUN_OF_SPEC, {"key": run.spec.key()})
    reopened = None if is_made_anew else reopened_run(run)
    if reopened is None:
        return find_or_make_run(connection, run.spec, card=run.card, video_id=job.video_id, now=now)
    save_run(connection, reopened)
    return reopened


def find_submitted(connection: Connection, key: IdempotencyKey, *, owner: str) -> Job | None:
    """As `ports.JobStore.submitted`. Raises IdempotencyKeyReusedError, JobNotFoundError."""
    row = connection.execute(KEY_AND_JOB, {"of_owner": owner, "key": key.text}).mappings().one_or_none()
    if row is None:
        return None
    if row["request_sha256"] != key.request_sha256:
        raise IdempotencyKeyReusedError(
            f"this Idempotency-Key has named another request, which made job {row['made_job_id']}; take a new key"
        )
    if row["id"] is None:
        raise JobNotFoundError(
            f"job {row['made_job_id']}, which this Idempotency-Key made, was deleted; take a new key to submit it again"
        )
    return to_job(row)


def insert_key(connection: Connection, key: IdempotencyKey, job: Job) -> None:
    made = {"request_sha256": key.request_sha256, "job_id": job.id, "created_at": job.created_at}
    connection.execute(INSERT_KEY, {"owner": job.owner, "key": key.text, **made})


def forget_keys(connection: Connection, *, before: datetime) -> None:
    connection.execute(FORGET_KEYS, {"before": before})


def _make_run(connection: Connection, spec: RunSpec, *, card: ModelCard, video_id: str, now: datetime) -> Run:
    if not is_any(connection, MODEL_DIGEST, {"digest": spec.model.digest}):
        connection.execute(INSERT_MODEL, {"digest": spec.model.digest, "card": card.to_json()})
    run = Run(id=new_id("run"), spec=spec, card=card, video_id=video_id, state=RunState.WAITING, created_at=now)
    connection.execute(INSERT_RUN, run_row(run))
    return run
