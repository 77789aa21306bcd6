"""Runs and the leases of their segments, as rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.core.commitment import merged
from orchestrator.core.fair_queue import Contender, charged, fairest_first, joining, refunded
from orchestrator.core.job_moves import state_after_failed_run
from orchestrator.core.records import Failure, Job, LeasedSegment, Run
from orchestrator.core.states import (
    NEXT_RUN_STATES,
    NEXT_SEGMENT_STATES,
    IndexState,
    JobState,
    RunState,
    SegmentState,
    moved,
)
from orchestrator.core.types import Lease, SegmentPlan
from orchestrator.errors import LeaseLostError, TransitionError
from orchestrator.storage.engine import Database
from orchestrator.storage.moves import (
    RUNS,
    is_wanted,
    live_jobs,
    load_run,
    load_runs,
    move_job,
    save_run,
    times_at_work,
)
from orchestrator.storage.row_codec import Row, to_plan
from orchestrator.storage.tables import jobs, parts, runs, segments, videos
from orchestrator.storage.uninterrupted import uninterrupted


@uninterrupted
class SqlRunStore:
    """`ports.RunStore` in a database. A segment's `attempt` only ever grows, so no two leases share a token."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, run_id: str) -> Run:
        async with self._database.read() as connection:
            return await load_run(connection, run_id)

    async def many(self, run_ids: Collection[str]) -> dict[str, Run]:
        async with self._database.read() as connection:
            return {run.id: run for run in await load_runs(connection, RUNS.where(runs.c.id.in_(run_ids)))}

    async def to_plan(self) -> Sequence[Run]:
        running = select(jobs.c.run_id).where(jobs.c.state == JobState.RUNNING)
        ready = (
            RUNS.join(videos, videos.c.id == runs.c.video_id)
            .where(runs.c.state == RunState.WAITING, videos.c.index_state != IndexState.PENDING, runs.c.id.in_(running))
            .order_by(runs.c.seq)
        )
        async with self._database.read() as connection:
            return await load_runs(connection, ready)

    async def open(
        self, run_id: str, *, plans: Sequence[SegmentPlan], skipped: int, warnings: Sequence[str], notes: Sequence[str]
    ) -> None:
        async with self._database.write() as connection:
            run = await load_run(connection, run_id)
            if run.state is not RunState.WAITING:
                return
            if plans:
                await connection.execute(insert(segments), [_open_segment_row(run_id, plan) for plan in plans])
            await save_run(
                connection,
                replace(
                    run,
                    state=moved(NEXT_RUN_STATES, run.state, RunState.OPEN),
                    frames_total=sum(plan.frame_count for plan in plans),
                    segments_total=len(plans),
                    ledger=replace(run.ledger, planned=sum(plan.frame_count for plan in plans), skipped=skipped),
                    warnings=merged(run.warnings, tuple(warnings)),
                    notes=merged(run.notes, tuple(notes)),
                    virtual_time=joining(run.virtual_time, await times_at_work(connection)),
                ),
            )

    async def lease_next(
        self, *, after: tuple[str, int] | None, avoid: Collection[str] = (), now: datetime, until: datetime
    ) -> LeasedSegment | None:
        async with self._database.write() as connection:
            for contender in fairest_first(await _contenders(connection)):
                if contender.run_id in avoid:
                    continue
                preferred = after[1] + 1 if after is not None and after[0] == contender.run_id else None
                segment = await _free_segment(connection, contender.run_id, preferred=preferred, now=now)
                if segment is not None:
                    return await _lease(connection, contender, segment, until=until)
        return None

    async def renew(self, lease: Lease, *, until: datetime) -> None:
        async with self._database.write() as connection:
            renewed = await connection.execute(update(segments).where(_held(lease)).values(leased_until=until))
        if not renewed.rowcount:
            raise LeaseLostError(f"segment {lease.segment} of {lease.run_id} belongs to another attempt")

    async def hand_back(self, lease: Lease, *, is_strike: bool = False) -> bool:
        async with self._database.write() as connection:
            held = await connection.execute(
                update(segments).where(_held(lease)).values(_opened(strikes=int(is_strike)))
            )
            if not held.rowcount:
                return False
            await _refund(connection, lease)
            return True

    async def is_wanted(self, run_id: str) -> bool:
        async with self._database.read() as connection:
            return await is_wanted(connection, run_id)

    async def free_leases(self) -> int:
        async with self._database.write() as connection:
            # No strikes: that a server stopped says nothing against the segments that were open in it.
            freed = await connection.execute(
                update(segments).where(segments.c.state == SegmentState.LEASED).values(_opened())
            )
            return freed.rowcount

    async def to_finalize(self) -> Sequence[Run]:
        finalizing = RUNS.where(runs.c.state == RunState.FINALIZING).order_by(runs.c.seq)
        async with self._database.write() as connection:
            ready = RUNS.where(runs.c.state == RunState.OPEN, runs.c.segments_done == runs.c.segments_total)
            for run in await load_runs(connection, ready):
                await save_run(connection, replace(run, state=moved(NEXT_RUN_STATES, run.state, RunState.FINALIZING)))
            return await load_runs(connection, finalizing)

    async def succeed(self, run_id: str, *, now: datetime) -> Sequence[Job]:
        """As `ports.RunStore.succeed`; a second time does nothing. Raises TransitionError from other states."""
        async with self._database.write() as connection:
            run = await load_run(connection, run_id)
            if run.state is RunState.SUCCEEDED:
                return ()
            run = replace(run, state=moved(NEXT_RUN_STATES, run.state, RunState.SUCCEEDED), finished_at=now)
            await save_run(connection, run)
            await connection.execute(delete(parts).where(parts.c.run_id == run_id))
            return [
                await move_job(connection, job, run, JobState.SUCCEEDED, now=now)
                for job in await live_jobs(connection, run_id)
            ]

    async def fail(self, run_id: str, failure: Failure, *, now: datetime) -> Sequence[Job]:
        """As `ports.RunStore.fail`; a second time does nothing. Jobs being cancelled become CANCELLED."""
        async with self._database.write() as connection:
            run = await load_run(connection, run_id)
            if run.state is RunState.FAILED:
                return ()
            if run.state is RunState.SUCCEEDED:
                raise TransitionError(f"{run_id} has succeeded; only losing its results may fail it")
            state = moved(NEXT_RUN_STATES, run.state, RunState.FAILED)
            run = replace(run, state=state, failure=failure, finished_at=now)
            await save_run(connection, run)
            is_leased = and_(segments.c.run_id == run_id, segments.c.state == SegmentState.LEASED)
            await connection.execute(update(segments).where(is_leased).values(_opened()))
            ended = []
            for job in await live_jobs(connection, run_id):
                end = state_after_failed_run(job)
                reason = failure if end is JobState.FAILED else None
                ended.append(await move_job(connection, job, run, end, now=now, failure=reason))
            return ended

    async def lose_results(self, run_id: str, failure: Failure) -> None:
        async with self._database.write() as connection:
            run = await load_run(connection, run_id)
            if run.state is RunState.SUCCEEDED:
                state = moved(NEXT_RUN_STATES, run.state, RunState.FAILED)
                await save_run(connection, replace(run, state=state, failure=failure))

    async def ids(self) -> frozenset[str]:
        async with self._database.read() as connection:
            return frozenset((await connection.execute(select(runs.c.id))).scalars())

    async def succeeded_ids(self) -> frozenset[str]:
        """Runs whose candidates are in the archive, for comparing rows with files at start."""
        async with self._database.read() as connection:
            succeeded = select(runs.c.id).where(runs.c.state == RunState.SUCCEEDED)
            return frozenset((await connection.execute(succeeded)).scalars())


async def _contenders(connection: AsyncConnection) -> list[Contender]:
    """OPEN runs that RUNNING jobs want, oldest first."""
    wanted = (
        select(runs.c.id, runs.c.virtual_time, func.max(jobs.c.priority))
        .join(jobs, jobs.c.run_id == runs.c.id)
        .where(runs.c.state == RunState.OPEN, jobs.c.state == JobState.RUNNING)
        .group_by(runs.c.seq, runs.c.id, runs.c.virtual_time)
        .order_by(runs.c.seq)
    )
    rows = await connection.execute(wanted)
    return [Contender(run_id, virtual_time, weight) for run_id, virtual_time, weight in rows]


async def _free_segment(
    connection: AsyncConnection, run_id: str, *, preferred: int | None, now: datetime
) -> RowMapping | None:
    """The preferred segment if it is free, else the first one that is, else None."""
    is_open = segments.c.state == SegmentState.OPEN
    is_expired = and_(segments.c.state == SegmentState.LEASED, segments.c.leased_until <= now)
    # Two look-ups in the index by state; a plain OR would walk all committed segments.
    lowest = select(func.min(segments.c.number)).where(segments.c.run_id == run_id)
    places = [lowest.where(condition).scalar_subquery() for condition in (is_open, is_expired)]
    free = (
        select(segments)
        .where(segments.c.run_id == run_id, segments.c.number.in_([*places, preferred]), or_(is_open, is_expired))
        .order_by(segments.c.number != preferred, segments.c.number)
        .limit(1)
    )
    return (await connection.execute(free)).mappings().one_or_none()


async def _lease(
    connection: AsyncConnection, contender: Contender, segment: RowMapping, *, until: datetime
) -> LeasedSegment:
    plan = to_plan(segment)
    attempt = segment["attempt"] + 1
    strikes = segment["strikes"] + (segment["state"] is SegmentState.LEASED)
    await connection.execute(
        update(segments)
        .where(segments.c.run_id == contender.run_id, segments.c.number == plan.number)
        .values(state=_leased_from(segment["state"]), attempt=attempt, strikes=strikes, leased_until=until)
    )
    run = await load_run(connection, contender.run_id)
    run = replace(run, virtual_time=charged(contender, plan.frame_count))
    await connection.execute(update(runs).where(runs.c.id == run.id).values(virtual_time=run.virtual_time))
    return LeasedSegment(lease=Lease(run.id, plan.number, attempt, until), plan=plan, run=run, strikes=strikes)


async def _refund(connection: AsyncConnection, lease: Lease) -> None:
    """Give back what a lease cost its run, if the run still contends."""
    contender = next((each for each in await _contenders(connection) if each.run_id == lease.run_id), None)
    if contender is None:
        return
    segment = select(segments).where(segments.c.run_id == lease.run_id, segments.c.number == lease.segment)
    frames = to_plan((await connection.execute(segment)).mappings().one()).frame_count
    await connection.execute(
        update(runs).where(runs.c.id == lease.run_id).values(virtual_time=refunded(contender, frames))
    )


def _leased_from(state: SegmentState) -> SegmentState:
    """A lease that expired is opened first."""
    is_expired = state is SegmentState.LEASED
    opened = moved(NEXT_SEGMENT_STATES, state, SegmentState.OPEN) if is_expired else state
    return moved(NEXT_SEGMENT_STATES, opened, SegmentState.LEASED)


def _held(lease: Lease) -> ColumnElement[bool]:
    """Whether the lease's attempt still has the segment; one that expired has it until another takes it."""
    return and_(
        segments.c.run_id == lease.run_id,
        segments.c.number == lease.segment,
        segments.c.attempt == lease.attempt,
        segments.c.state == SegmentState.LEASED,
    )


def _opened(*, strikes: int = 0) -> dict[str, Any]:
    """What a leased segment becomes. strikes: to be added to its own."""
    return {"state": SegmentState.OPEN, "strikes": segments.c.strikes + strikes, "leased_until": None}


def _open_segment_row(run_id: str, plan: SegmentPlan) -> Row:
    return {
        "run_id": run_id,
        "number": plan.number,
        "first_sample": plan.first_sample,
        "last_sample": plan.last_sample,
        "entry_pts": plan.entry_pts,
        "state": SegmentState.OPEN,
        "attempt": 0,
        "strikes": 0,
    }
