"""Parts as rows: a segment's candidates appear whole, with the segment's end and its event, or not at all."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, func, insert, select

from orchestrator.core.commitment import committed_run
from orchestrator.core.job_moves import frame_span, segment_event
from orchestrator.core.records import Run, SegmentResult
from orchestrator.core.states import NEXT_SEGMENT_STATES, SegmentState, moved
from orchestrator.core.types import Candidates, Lease, StageSeconds
from orchestrator.errors import LeaseLostError, PartsMovedError
from orchestrator.storage.engine import Database
from orchestrator.storage.moves import UPDATE_SEGMENT, load_run, save_run, tell
from orchestrator.storage.part_codec import decode_part, encode_part
from orchestrator.storage.row_codec import to_plan
from orchestrator.storage.tables import parts, segments
from orchestrator.storage.threads import Threads
from orchestrator.storage.transactions import SqlStore, reading

# Segments read in one transaction: few enough to stay small in memory, and no transaction waits for a slow reader.
SEGMENTS_A_READ: Final = 8
# More than any segment's number.
NO_GAP: Final = 2**31 - 1
OF_RUN: Final = segments.c.run_id == bindparam("run_id")


def _before_the_first_gap() -> list[ColumnElement[bool]]:
    """That a segment comes before the first one that is not committed: one look-up in the index for each state."""
    gap = segments.alias("gap")
    lowest_by_state = [
        select(func.min(gap.c.number)).where(gap.c.run_id == bindparam("run_id"), gap.c.state == state)
        for state in (SegmentState.OPEN, SegmentState.LEASED)
    ]
    return [segments.c.number < func.coalesce(lowest.scalar_subquery(), NO_GAP) for lowest in lowest_by_state]


LAST_COMPLETE_FRAME: Final = (
    select(segments.c.last_frame).where(OF_RUN, *_before_the_first_gap()).order_by(segments.c.number.desc()).limit(1)
)
FAILED_FRAMES: Final = (
    select(segments.c.failed_frames).where(OF_RUN, segments.c.failed_frames.is_not(None)).order_by(segments.c.number)
)
COMMITTED_SEGMENTS: Final = (
    select(segments.c.number, parts.c.body)
    .outerjoin(parts, (parts.c.run_id == segments.c.run_id) & (parts.c.segment == segments.c.number))
    .where(
        OF_RUN,
        segments.c.number > bindparam("after"),
        segments.c.last_frame >= bindparam("from_frame"),
        *_before_the_first_gap(),
    )
    .order_by(segments.c.number)
    .limit(SEGMENTS_A_READ)
)
COMMITTED_SEGMENTS_UP_TO: Final = COMMITTED_SEGMENTS.where(segments.c.first_frame <= bindparam("to_frame"))
HELD_OR_DONE_SEGMENT: Final = select(segments).where(
    OF_RUN,
    segments.c.number == bindparam("number"),
    segments.c.attempt == bindparam("attempt"),
    segments.c.state != SegmentState.OPEN,
)
INSERT_PART: Final = insert(parts)


class SqlPartStore(SqlStore):
    """`ports.PartStore` in a database."""

    def __init__(self, database: Database, threads: Threads) -> None:
        super().__init__(database)
        self._threads = threads

    async def commit(self, lease: Lease, result: SegmentResult, *, now: datetime) -> Run:
        began_s = time.monotonic()
        body = await self._threads.run(encode_part, result.candidates)
        return await self.database.write(
            lambda connection: _commit(connection, lease, result, body=body, began_s=began_s, now=now)
        )

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

    @reading
    def complete_through(self, connection: Connection, run_id: str) -> int | None:
        frame: int | None = connection.execute(LAST_COMPLETE_FRAME, {"run_id": run_id}).scalar()
        return frame

    @reading
    def failed_frames(self, connection: Connection, run_id: str) -> Mapping[int, str]:
        rows = connection.execute(FAILED_FRAMES, {"run_id": run_id}).scalars()
        return {index: reason for frames in rows for index, reason in frames}

    @reading
    def _committed_after(
        self, connection: Connection, run_id: str, number: int, *, first_frame: int, last_frame: int | None
    ) -> Sequence[RowMapping]:
        """Up to `SEGMENTS_A_READ` segments after `number` that hold frames of the range, before the first gap."""
        wanted = {"run_id": run_id, "after": number, "from_frame": first_frame}
        if last_frame is None:
            found = connection.execute(COMMITTED_SEGMENTS, wanted)
        else:
            found = connection.execute(COMMITTED_SEGMENTS_UP_TO, wanted | {"to_frame": last_frame})
        return found.mappings().all()


def _commit(
    connection: Connection, lease: Lease, result: SegmentResult, *, body: bytes, began_s: float, now: datetime
) -> Run:
    """As `ports.PartStore.commit`. body: the encoded candidates. began_s: when writing them began."""
    segment = _held_or_done_segment(connection, lease)
    run = load_run(connection, lease.run_id)
    if segment["state"] is SegmentState.DONE:
        return run
    run = committed_run(run, result)
    _close_segment(connection, lease, segment, result)
    connection.execute(INSERT_PART, {"run_id": lease.run_id, "segment": lease.segment, "body": body})
    # All but the commit itself, which cannot be in what it commits.
    run = replace(run, seconds=run.seconds + StageSeconds(writing=time.monotonic() - began_s))
    save_run(connection, run)
    tell(connection, [segment_event(run, to_plan(segment), result)], run_id=run.id, now=now)
    return run


def _held_or_done_segment(connection: Connection, lease: Lease) -> RowMapping:
    """The lease's segment, leased to it or already committed by it. Raises LeaseLostError."""
    held = {"run_id": lease.run_id, "number": lease.segment, "attempt": lease.attempt}
    row = connection.execute(HELD_OR_DONE_SEGMENT, held).mappings().one_or_none()
    if row is None:
        raise LeaseLostError(f"segment {lease.segment} of {lease.run_id} belongs to another attempt")
    return row


def _close_segment(connection: Connection, lease: Lease, segment: RowMapping, result: SegmentResult) -> None:
    first_frame, last_frame = frame_span(result)
    connection.execute(
        UPDATE_SEGMENT,
        {
            "of_run": lease.run_id,
            "of_number": lease.segment,
            "state": moved(NEXT_SEGMENT_STATES, segment["state"], SegmentState.DONE),
            "leased_until": None,
            "entry_pts": result.report.entry_pts,
            "first_frame": first_frame,
            "last_frame": last_frame,
            "failed_frames": [[stamp.index, reason] for stamp, reason in result.report.failed] or None,
            "frame_errors": result.report.frame_errors,
        },
    )


def _decode_parts(bodies: Sequence[bytes]) -> Candidates:
    return Candidates.concatenate([decode_part(body) for body in bodies])
