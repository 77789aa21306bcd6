"""Runs as rows: found, planned, leased from, and moved to their end together with their jobs.

What polls looks first, in a reading transaction, whether there is anything to be done.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, and_, bindparam, delete, insert, or_, select

from orchestrator.core.commitment import merged
from orchestrator.core.fair_queue import joining
from orchestrator.core.job_moves import state_after_failed_run
from orchestrator.core.records import Failure, Job, LeasedSegment, Run, Waiting
from orchestrator.core.states import NEXT_RUN_STATES, IndexState, JobState, RunState, moved
from orchestrator.core.types import Lease, SegmentPlan
from orchestrator.errors import TransitionError
from orchestrator.storage import leases, waits
from orchestrator.storage.moves import (
    RUNS,
    WANTED_RUNS,
    is_any,
    is_wanted,
    live_jobs,
    load_run,
    load_runs,
    move_job,
    save_run,
    times_at_work,
)
from orchestrator.storage.row_codec import open_segment_row
from orchestrator.storage.tables import parts, runs, segments, videos
from orchestrator.storage.transactions import SqlStore, reading, writing

RUNS_NAMED: Final = RUNS.where(runs.c.id.in_(bindparam("run_ids", expanding=True)))
RUNS_TO_PLAN: Final = (
    RUNS.join(videos, videos.c.id == runs.c.video_id)
    .where(runs.c.id.in_(WANTED_RUNS.where(runs.c.state == RunState.WAITING)))
    .where(videos.c.index_state != IndexState.PENDING)
    .order_by(runs.c.seq)
)
IS_COMPLETE: Final = and_(runs.c.state == RunState.OPEN, runs.c.segments_done == runs.c.segments_total)
IS_FINALIZING: Final = runs.c.state == RunState.FINALIZING
COMPLETE_RUNS: Final = RUNS.where(IS_COMPLETE)
FINALIZING_RUNS: Final = RUNS.where(IS_FINALIZING).order_by(runs.c.seq)
RUN_TO_FINALIZE: Final = select(runs.c.id).where(or_(IS_COMPLETE, IS_FINALIZING)).limit(1)
RUN_IDS: Final = select(runs.c.id)
SUCCEEDED_RUN_IDS: Final = RUN_IDS.where(runs.c.state == RunState.SUCCEEDED)
INSERT_SEGMENT: Final = insert(segments)
DELETE_PARTS: Final = delete(parts).where(parts.c.run_id == bindparam("run_id"))


class SqlRunStore(SqlStore):
    """`ports.RunStore` in a database. A segment's `attempt` only ever grows, so no two leases share a token."""

    @reading
    def get(self, connection: Connection, run_id: str) -> Run:
        return load_run(connection, run_id)

    @reading
    def many(self, connection: Connection, run_ids: Collection[str]) -> dict[str, Run]:
        return {run.id: run for run in load_runs(connection, RUNS_NAMED, {"run_ids": list(run_ids)})}

    @reading
    def to_plan(self, connection: Connection) -> Sequence[Run]:
        return load_runs(connection, RUNS_TO_PLAN)

    @writing
    def open(
        self,
        connection: Connection,
        run_id: str,
        *,
        plans: Sequence[SegmentPlan],
        skipped: int,
        warnings: Sequence[str],
        notes: Sequence[str],
    ) -> None:
        run = load_run(connection, run_id)
        if run.state is not RunState.WAITING:
            return
        if plans:
            connection.execute(INSERT_SEGMENT, [open_segment_row(run_id, plan) for plan in plans])
        planned = sum(plan.frame_count for plan in plans)
        save_run(
            connection,
            replace(
                run,
                state=moved(NEXT_RUN_STATES, run.state, RunState.OPEN),
                frames_total=planned,
                segments_total=len(plans),
                ledger=replace(run.ledger, planned=planned, skipped=skipped),
                warnings=merged(run.warnings, tuple(warnings)),
                notes=merged(run.notes, tuple(notes)),
                virtual_time=joining(run.virtual_time, times_at_work(connection)),
            ),
        )

    async def lease_next(
        self, *, after: tuple[str, int] | None, avoid: Collection[str] = (), now: datetime, until: datetime
    ) -> LeasedSegment | None:
        def choose(connection: Connection) -> leases.NextSegment | None:
            return leases.next_segment(connection, after=after, avoid=avoid, now=now)

        def lease(connection: Connection) -> LeasedSegment | None:
            chosen = choose(connection)
            return None if chosen is None else leases.take(connection, chosen, until=until)

        return None if await self.database.read(choose) is None else await self.database.write(lease)

    @reading
    def has_free_segment(self, connection: Connection, *, now: datetime) -> bool:
        return leases.next_segment(connection, after=None, avoid=(), now=now) is not None

    @writing
    def renew(self, connection: Connection, lease: Lease, *, until: datetime) -> None:
        leases.renew(connection, lease, until=until)

    @writing
    def hand_back(self, connection: Connection, lease: Lease, *, strike: str | None = None) -> bool:
        return leases.hand_back(connection, lease, strike=strike)

    async def wait(self, run_id: str, failure: Failure, *, tried_at: datetime, now: datetime) -> datetime:
        def look(connection: Connection) -> tuple[Waiting, bool]:
            return waits.after_attempt(connection, run_id, failure, tried_at=tried_at, now=now)

        def note(connection: Connection) -> Waiting:
            waiting, is_news = look(connection)
            if is_news:
                waits.store(connection, run_id, waiting)
            return waiting

        waiting, is_news = await self.database.read(look)
        return (await self.database.write(note)).since if is_news else waiting.since

    @reading
    def is_wanted(self, connection: Connection, run_id: str) -> bool:
        return is_wanted(connection, run_id)

    @writing
    def free_leases(self, connection: Connection) -> int:
        # A server that stops hands its segments back. These were open in one that died, perhaps of that very segment.
        return connection.execute(leases.REOPEN_ALL_SEGMENTS).rowcount

    async def to_finalize(self) -> Sequence[Run]:
        if not await self.database.read(lambda connection: is_any(connection, RUN_TO_FINALIZE)):
            return []
        return await self.database.write(_finalizing)

    @writing
    def succeed(self, connection: Connection, run_id: str, *, now: datetime) -> Sequence[Job]:
        """As `ports.RunStore.succeed`; a second time does nothing. Raises TransitionError from other states."""
        run = load_run(connection, run_id)
        if run.state is RunState.SUCCEEDED:
            return []
        run = replace(run, state=moved(NEXT_RUN_STATES, run.state, RunState.SUCCEEDED), finished_at=now)
        save_run(connection, run)
        connection.execute(DELETE_PARTS, {"run_id": run_id})
        return [move_job(connection, job, run, JobState.SUCCEEDED, now=now) for job in live_jobs(connection, run_id)]

    @writing
    def fail(self, connection: Connection, run_id: str, failure: Failure, *, now: datetime) -> Sequence[Job]:
        """As `ports.RunStore.fail`; a second time does nothing. Jobs being cancelled become CANCELLED."""
        run = load_run(connection, run_id)
        if run.state is RunState.FAILED:
            return []
        if run.state is RunState.SUCCEEDED:
            raise TransitionError(f"{run_id} has succeeded; only losing its results may fail it")
        state = moved(NEXT_RUN_STATES, run.state, RunState.FAILED)
        run = replace(run, state=state, waiting=None, failure=failure, finished_at=now)
        save_run(connection, run)
        connection.execute(leases.REOPEN_SEGMENTS_OF_RUN, {"of_run": run_id})
        ended = []
        for job in live_jobs(connection, run_id):
            end = state_after_failed_run(job)
            reason = failure if end is JobState.FAILED else None
            ended.append(move_job(connection, job, run, end, now=now, failure=reason))
        return ended

    @writing
    def lose_results(self, connection: Connection, run_id: str, failure: Failure) -> None:
        run = load_run(connection, run_id)
        if run.state is RunState.SUCCEEDED:
            save_run(
                connection, replace(run, state=moved(NEXT_RUN_STATES, run.state, RunState.FAILED), failure=failure)
            )

    @reading
    def ids(self, connection: Connection) -> frozenset[str]:
        return frozenset(connection.execute(RUN_IDS).scalars())

    @reading
    def succeeded_ids(self, connection: Connection) -> frozenset[str]:
        """Runs whose candidates are in the archive, for comparing rows with files at start."""
        return frozenset(connection.execute(SUCCEEDED_RUN_IDS).scalars())


def _finalizing(connection: Connection) -> Sequence[Run]:
    """As `ports.RunStore.to_finalize`."""
    for run in load_runs(connection, COMPLETE_RUNS):
        save_run(connection, replace(run, state=moved(NEXT_RUN_STATES, run.state, RunState.FINALIZING)))
    return load_runs(connection, FINALIZING_RUNS)
