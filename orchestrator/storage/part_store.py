"""Parts as rows: a segment's candidates appear whole, with the segment's end and its event, or not at all."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, RowMapping, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.core.commitment import committed_run
from orchestrator.core.job_moves import frame_span, segment_event
from orchestrator.core.records import Run, SegmentResult
from orchestrator.core.states import NEXT_SEGMENT_STATES, SegmentState, moved
from orchestrator.core.types import Candidates, Lease, StageSeconds
from orchestrator.errors import LeaseLostError, PartsMovedError
from orchestrator.storage.engine import Database
from orchestrator.storage.moves import load_run, save_run, tell
from orchestrator.storage.part_codec import decode_part, encode_part
from orchestrator.storage.row_codec import to_plan
from orchestrator.storage.tables import parts, segments
from orchestrator.storage.threads import Threads
from orchestrator.storage.uninterrupted import uninterrupted

# Segments read in one transaction: few enough to stay small in memory, and no transaction waits for a slow reader.
SEGMENTS_A_READ: Final = 8
# More than any segment's number.
NO_GAP: Final = 2**31 - 1
gap: Final = segments.alias("gap")


@uninterrupted
class SqlPartStore:
    """`ports.PartStore` in a database."""

    def __init__(self, database: Database, threads: Threads) -> None:
        self._database = database
        self._threads = threads

    async def commit(self, lease: Lease, result: SegmentResult, *, now: datetime) -> Run:
        began = time.monotonic()
        body = await self._threads.run(encode_part, result.candidates)
        async with self._database.write() as connection:
            segment = await _held_segment(connection, lease)
            run = await load_run(connection, lease.run_id)
            if segment["state"] is SegmentState.DONE:
                return run
            run = committed_run(run, result)
            await _close_segment(connection, lease, segment, result)
            await connection.execute(insert(parts).values(run_id=lease.run_id, segment=lease.segment, body=body))
            # All but the commit itself, which cannot be in what it commits.
            writing = StageSeconds(writing=time.monotonic() - began)
            run = replace(run, seconds=run.seconds + writing)
            await save_run(connection, run)
            await tell(connection, [segment_event(run, to_plan(segment), result)], run_id=run.id, now=now)
            return run

    async def read(self, run_id: str, *, first_frame: int, last_frame: int | None) -> AsyncIterator[Candidates]:
        """As `ports.PartStore.read`. Raises PartsMovedError when the run was finalized meanwhile."""
        number = -1
        while rows := await self._committed_after(run_id, number, first_frame=first_frame, last_frame=last_frame):
            bodies = [row["body"] for row in rows]
            if None in bodies:
                raise PartsMovedError(f"the candidates of {run_id} have moved to the archive; read on from there")
            candidates = await self._threads.run(_decode_parts, bodies)
            yield candidates.within(first_frame, last_frame)
            number = rows[-1]["number"]

    async def complete_through(self, run_id: str) -> int | None:
        last = (
            select(segments.c.last_frame)
            .where(segments.c.run_id == run_id, *_before_the_first_gap(run_id))
            .order_by(segments.c.number.desc())
            .limit(1)
        )
        async with self._database.read() as connection:
            frame: int | None = (await connection.execute(last)).scalar()
        return frame

    async def failed_frames(self, run_id: str) -> Mapping[int, str]:
        failed = (
            select(segments.c.failed_frames)
            .where(segments.c.run_id == run_id, segments.c.failed_frames.is_not(None))
            .order_by(segments.c.number)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(failed)).scalars().all()
        return {index: reason for frames in rows for index, reason in frames}

    async def _committed_after(
        self, run_id: str, number: int, *, first_frame: int, last_frame: int | None
    ) -> list[RowMapping]:
        """Up to `SEGMENTS_A_READ` segments after `number` that hold frames of the range, before the first gap."""
        wanted = (
            select(segments.c.number, parts.c.body)
            .outerjoin(parts, (parts.c.run_id == segments.c.run_id) & (parts.c.segment == segments.c.number))
            .where(
                segments.c.run_id == run_id,
                segments.c.number > number,
                segments.c.last_frame >= first_frame,
                *_before_the_first_gap(run_id),
            )
            .order_by(segments.c.number)
            .limit(SEGMENTS_A_READ)
        )
        if last_frame is not None:
            wanted = wanted.where(segments.c.first_frame <= last_frame)
        async with self._database.read() as connection:
            return list((await connection.execute(wanted)).mappings())


async def _held_segment(connection: AsyncConnection, lease: Lease) -> RowMapping:
    """The lease's segment, leased to it or already committed by it. Raises LeaseLostError."""
    found = select(segments).where(
        segments.c.run_id == lease.run_id,
        segments.c.number == lease.segment,
        segments.c.attempt == lease.attempt,
        segments.c.state != SegmentState.OPEN,
    )
    row = (await connection.execute(found)).mappings().one_or_none()
    if row is None:
        raise LeaseLostError(f"segment {lease.segment} of {lease.run_id} belongs to another attempt")
    return row


async def _close_segment(connection: AsyncConnection, lease: Lease, segment: RowMapping, result: SegmentResult) -> None:
    first_frame, last_frame = frame_span(result)
    failed = [[stamp.index, reason] for stamp, reason in result.report.failed]
    await connection.execute(
        update(segments)
        .where(segments.c.run_id == lease.run_id, segments.c.number == lease.segment)
        .values(
            state=moved(NEXT_SEGMENT_STATES, segment["state"], SegmentState.DONE),
            leased_until=None,
            entry_pts=result.report.entry_pts,
            first_frame=first_frame,
            last_frame=last_frame,
            failed_frames=failed or None,
            frame_errors=result.report.frame_errors,
        )
    )


def _before_the_first_gap(run_id: str) -> list[ColumnElement[bool]]:
    """That a segment comes before the first one that is not committed: one look-up in the index for each state."""
    gaps = []
    for state in (SegmentState.OPEN, SegmentState.LEASED):
        lowest = select(func.min(gap.c.number)).where(gap.c.run_id == run_id, gap.c.state == state).scalar_subquery()
        gaps.append(segments.c.number < func.coalesce(lowest, NO_GAP))
    return gaps


def _decode_parts(bodies: Sequence[bytes]) -> Candidates:
    return Candidates.concatenate([decode_part(body) for body in bodies])
