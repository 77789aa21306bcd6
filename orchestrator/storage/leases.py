"""Leases of segments as rows: which one is next, and what a lease changes. Steps inside a transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Select, and_, bindparam, func, or_, select, update

from orchestrator.core.fair_queue import Contender, charged, fairest_first, refunded
from orchestrator.core.records import LeasedSegment
from orchestrator.core.states import NEXT_SEGMENT_STATES, JobState, RunState, SegmentState, moved
from orchestrator.core.types import Lease
from orchestrator.errors import LeaseLostError, WorkerLostError
from orchestrator.storage.moves import UPDATE_RUN, UPDATE_SEGMENT, load_run
from orchestrator.storage.row_codec import Row, to_plan
from orchestrator.storage.tables import jobs, runs, segments

# OPEN runs that RUNNING jobs want, oldest first.
CONTENDERS: Final = (
    select(runs.c.id, runs.c.virtual_time, func.max(jobs.c.priority))
    .join(jobs, jobs.c.run_id == runs.c.id)
    .where(runs.c.state == RunState.OPEN, jobs.c.state == JobState.RUNNING)
    .group_by(runs.c.seq, runs.c.id, runs.c.virtual_time)
    .order_by(runs.c.seq)
)
OF_RUN: Final = segments.c.run_id == bindparam("run_id")
IS_OPEN: Final = segments.c.state == SegmentState.OPEN
IS_LEASED: Final = segments.c.state == SegmentState.LEASED
IS_EXPIRED: Final = and_(IS_LEASED, segments.c.leased_until <= bindparam("now"))
# Each a look-up in an index. Asked in one, PostgreSQL may walk over all segments of the run instead: 12 ms of 40,000.
PREFERRED_SEGMENT: Final = select(segments).where(
    OF_RUN, segments.c.number == bindparam("preferred"), or_(IS_OPEN, IS_EXPIRED)
)
FIRST_SEGMENT: Final = select(segments).where(OF_RUN).order_by(segments.c.number).limit(1)
FIRST_EXPIRED_SEGMENT: Final = FIRST_SEGMENT.where(IS_EXPIRED)
FIRST_OPEN_SEGMENT: Final = FIRST_SEGMENT.where(IS_OPEN)
SEGMENT: Final = select(segments).where(OF_RUN, segments.c.number == bindparam("number"))
# Whether the lease's attempt still has the segment; one that expired has it until another takes it.
IS_HELD: Final = and_(
    segments.c.run_id == bindparam("of_run"),
    segments.c.number == bindparam("of_number"),
    segments.c.attempt == bindparam("of_attempt"),
    IS_LEASED,
)
RENEW_LEASE: Final = update(segments).where(IS_HELD).values(leased_until=bindparam("until"))
REOPEN_SEGMENTS: Final = update(segments).where(IS_LEASED).values(state=SegmentState.OPEN, leased_until=None)
# Only OPEN runs have leased segments, and the others are the many.
REOPEN_ALL_SEGMENTS: Final = REOPEN_SEGMENTS.where(
    segments.c.run_id.in_(select(runs.c.id).where(runs.c.state == RunState.OPEN))
).values(strikes=segments.c.strikes + 1, strike_reason=WorkerLostError.code)
REOPEN_SEGMENTS_OF_RUN: Final = REOPEN_SEGMENTS.where(segments.c.run_id == bindparam("of_run"))
HAND_BACK: Final = REOPEN_SEGMENTS.where(IS_HELD)
HAND_BACK_WITH_STRIKE: Final = HAND_BACK.values(strikes=segments.c.strikes + 1, strike_reason=bindparam("strike"))


@dataclass(frozen=True, slots=True)
class NextSegment:
    """segment: its row, OPEN or with a lease that expired."""

    contender: Contender
    segment: RowMapping


def next_segment(
    connection: Connection, *, after: tuple[str, int] | None, avoid: Collection[str], now: datetime
) -> NextSegment | None:
    """The one that `ports.RunStore.lease_next` leases."""
    for contender in fairest_first(_contenders(connection)):
        if contender.run_id in avoid:
            continue
        preferred = after[1] + 1 if after is not None and after[0] == contender.run_id else None
        segment = _free_segment(connection, contender.run_id, preferred=preferred, now=now)
        if segment is not None:
            return NextSegment(contender, segment)
    return None


def _free_segment(connection: Connection, run_id: str, *, preferred: int | None, now: datetime) -> RowMapping | None:
    """The preferred one, else the first whose lease expired, else the first that is open."""
    of_run: Row = {"run_id": run_id, "now": now}
    found = None
    if preferred is not None:
        found = _segment(connection, PREFERRED_SEGMENT, {**of_run, "preferred": preferred})
    return (
        found
        or _segment(connection, FIRST_EXPIRED_SEGMENT, of_run)
        or _segment(connection, FIRST_OPEN_SEGMENT, {"run_id": run_id})
    )


def _segment(connection: Connection, rows: Select[Any], parameters: Row) -> RowMapping | None:
    return connection.execute(rows, parameters).mappings().one_or_none()


def take(connection: Connection, chosen: NextSegment, *, until: datetime) -> LeasedSegment:
    segment, plan = chosen.segment, to_plan(chosen.segment)
    attempt = segment["attempt"] + 1
    is_expired = segment["state"] is SegmentState.LEASED
    strikes = segment["strikes"] + is_expired
    strike_reason = WorkerLostError.code if is_expired else segment["strike_reason"]
    connection.execute(
        UPDATE_SEGMENT,
        {
            "of_run": chosen.contender.run_id,
            "of_number": plan.number,
            "state": _leased_from(segment["state"]),
            "attempt": attempt,
            "strikes": strikes,
            "strike_reason": strike_reason,
            "leased_until": until,
        },
    )
    run = load_run(connection, chosen.contender.run_id)
    run = replace(run, virtual_time=charged(chosen.contender, plan.frame_count))
    connection.execute(UPDATE_RUN, {"of_run": run.id, "virtual_time": run.virtual_time})
    lease = Lease(run.id, plan.number, attempt, until)
    return LeasedSegment(lease=lease, plan=plan, run=run, strikes=strikes, strike_reason=strike_reason)


def renew(connection: Connection, lease: Lease, *, until: datetime) -> None:
    """Raises LeaseLostError."""
    if not connection.execute(RENEW_LEASE, {**_held_by(lease), "until": until}).rowcount:
        raise LeaseLostError(f"segment {lease.segment} of {lease.run_id} belongs to another attempt")


def hand_back(connection: Connection, lease: Lease, *, strike: str | None) -> bool:
    """As `ports.RunStore.hand_back`."""
    if strike is None:
        handed = connection.execute(HAND_BACK, _held_by(lease))
    else:
        handed = connection.execute(HAND_BACK_WITH_STRIKE, {**_held_by(lease), "strike": strike})
    if not handed.rowcount:
        return False
    contender = next((each for each in _contenders(connection) if each.run_id == lease.run_id), None)
    # A run that does not contend just now joins anew.
    if contender is not None:
        segment = connection.execute(SEGMENT, {"run_id": lease.run_id, "number": lease.segment}).mappings().one()
        virtual_time = refunded(contender, to_plan(segment).frame_count)
        connection.execute(UPDATE_RUN, {"of_run": lease.run_id, "virtual_time": virtual_time})
    return True


def _contenders(connection: Connection) -> list[Contender]:
    return [Contender(run_id, virtual_time, weight) for run_id, virtual_time, weight in connection.execute(CONTENDERS)]


def _held_by(lease: Lease) -> Row:
    return {"of_run": lease.run_id, "of_number": lease.segment, "of_attempt": lease.attempt}


def _leased_from(state: SegmentState) -> SegmentState:
    """A lease that expired is opened first."""
    is_expired = state is SegmentState.LEASED
    opened = moved(NEXT_SEGMENT_STATES, state, SegmentState.OPEN) if is_expired else state
    return moved(NEXT_SEGMENT_STATES, opened, SegmentState.LEASED)
