"""The durable events, as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, func, or_, select

from orchestrator.core.records import Event, EventKind, Job
from orchestrator.storage.row_codec import to_event
from orchestrator.storage.tables import events
from orchestrator.storage.transactions import SqlStore, reading

NEWER: Final = select(events).where(events.c.id > bindparam("last_id")).order_by(events.c.id).limit(bindparam("limit"))
NEWER_OF_JOB: Final = NEWER.where(or_(events.c.job_id == bindparam("job_id"), events.c.run_id == bindparam("run_id")))
NEWER_OF_ALL_JOBS: Final = NEWER.where(events.c.job_id.is_not(None))
LAST_ID: Final = select(func.max(events.c.id))
DONE_ID: Final = LAST_ID.where(events.c.job_id == bindparam("job_id"), events.c.kind == EventKind.DONE)


class SqlEventStore(SqlStore):
    """`ports.EventStore` in a database. Segment events belong to the run, so jobs that join late see each once."""

    @reading
    def after(self, connection: Connection, job: Job, *, last_id: int, limit: int) -> Sequence[Event]:
        newer = {"job_id": job.id, "run_id": job.run_id, "last_id": last_id, "limit": limit}
        return [to_event(row) for row in connection.execute(NEWER_OF_JOB, newer).mappings()]

    @reading
    def of_all_jobs_after(self, connection: Connection, *, last_id: int, limit: int) -> Sequence[Event]:
        newer = {"last_id": last_id, "limit": limit}
        return [to_event(row) for row in connection.execute(NEWER_OF_ALL_JOBS, newer).mappings()]

    @reading
    def last_id(self, connection: Connection) -> int:
        return connection.execute(LAST_ID).scalar() or 0

    @reading
    def done_id(self, connection: Connection, job_id: str) -> int | None:
        number: int | None = connection.execute(DONE_ID, {"job_id": job_id}).scalar()
        return number
