"""The durable events, as rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, or_, select

from orchestrator.core.records import Event, EventKind, Job
from orchestrator.storage.engine import Database
from orchestrator.storage.row_codec import to_event
from orchestrator.storage.tables import events
from orchestrator.storage.uninterrupted import uninterrupted


@uninterrupted
class SqlEventStore:
    """`ports.EventStore` in a database. Segment events belong to the run, so jobs that join late see each once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, job: Job, *, last_id: int, limit: int) -> Sequence[Event]:
        own = or_(events.c.job_id == job.id, events.c.run_id == job.run_id)
        newer = select(events).where(own, events.c.id > last_id).order_by(events.c.id).limit(limit)
        async with self._database.read() as connection:
            return [to_event(row) for row in (await connection.execute(newer)).mappings()]

    async def of_all_jobs_after(self, *, last_id: int, limit: int) -> Sequence[Event]:
        newer = (
            select(events).where(events.c.job_id.is_not(None), events.c.id > last_id).order_by(events.c.id).limit(limit)
        )
        async with self._database.read() as connection:
            return [to_event(row) for row in (await connection.execute(newer)).mappings()]

    async def last_id(self) -> int:
        async with self._database.read() as connection:
            return (await connection.execute(select(func.max(events.c.id)))).scalar() or 0

    async def done_id(self, job_id: str) -> int | None:
        done = select(func.max(events.c.id)).where(events.c.job_id == job_id, events.c.kind == EventKind.DONE)
        async with self._database.read() as connection:
            number: int | None = (await connection.execute(done)).scalar()
        return number
