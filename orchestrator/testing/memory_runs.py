"""`RunStore` and `PartStore` in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from orchestrator.core.commitment import committed_run, merged
from orchestrator.core.fair_queue import Contender, charged, fairest_first, joining, refunded
from orchestrator.core.job_moves import frame_span, segment_event, state_after_failed_run
from orchestrator.core.records import Failure, Job, LeasedSegment, Run, SegmentResult
from orchestrator.core.states import (
    LIVE_JOB_STATES,
    NEXT_RUN_STATES,
    IndexState,
    JobState,
    RunState,
    SegmentState,
    moved,
)
from orchestrator.core.types import Candidates, Lease, SegmentPlan
from orchestrator.core.waiting import is_news, waiting_after
from orchestrator.errors import LeaseLostError, PartsMovedError, TransitionError, WorkerLostError
from orchestrator.testing.world import StoredSegment, World


@dataclass(frozen=True, slots=True)
class MemoryRunStore:
    world: World

    async def get(self, run_id: str) -> Run:
        return self.world.run(run_id)

    async def many(self, run_ids: Collection[str]) -> dict[str, Run]:
        return {run_id: run for run_id, run in self.world.runs.items() if run_id in run_ids}

    async def to_plan(self) -> Sequence[Run]:
        waiting = [run for run in self.world.runs.values() if run.state is RunState.WAITING]
        return [
            run
            for run in waiting
            if self.world.is_wanted(run.id) and self.world.videos[run.video_id].index_state is not IndexState.PENDING
        ]

    async def open(
        self, run_id: str, *, plans: Sequence[SegmentPlan], skipped: int, warnings: Sequence[str], notes: Sequence[str]
    ) -> None:
        run = self.world.run(run_id)
        if run.state is not RunState.WAITING:
            return
        self.world.segments[run_id] = [StoredSegment(plan=plan) for plan in plans]
        self.world.set_run(
            replace(
                run,
                state=moved(NEXT_RUN_STATES, run.state, RunState.OPEN),
                frames_total=sum(plan.frame_count for plan in plans),
                segments_total=len(plans),
                ledger=replace(run.ledger, planned=sum(plan.frame_count for plan in plans), skipped=skipped),
                warnings=merged(run.warnings, tuple(warnings)),
                notes=merged(run.notes, tuple(notes)),
                virtual_time=joining(run.virtual_time, [other.virtual_time for other in self.world.runs_at_work()]),
            )
        )

    async def lease_next(
        self, *, after: tuple[str, int] | None, avoid: Collection[str] = (), now: datetime, until: datetime
    ) -> LeasedSegment | None:
        contenders = [Contender(run.id, run.virtual_time, self._weight(run)) for run in self.world.runs_at_work()]
        for contender in fairest_first(each for each in contenders if each.run_id not in avoid):
            free = [segment for segment in self.world.segments[contender.run_id] if segment.is_free(now)]
            if free:
                next_one = after[1] + 1 if after is not None and after[0] == contender.run_id else None
                preferred = [segment for segment in free if segment.plan.number == next_one]
                expired = [segment for segment in free if segment.state is SegmentState.LEASED]
                return self._lease(contender, (preferred or expired or free)[0], until=until)
        return None

    async def has_free_segment(self, *, now: datetime) -> bool:
        at_work = self.world.runs_at_work()
        return any(segment.is_free(now) for run in at_work for segment in self.world.segments[run.id])

    async def renew(self, lease: Lease, *, until: datetime) -> None:
        segment = self.world.held(lease)
        if segment is None:
            raise LeaseLostError(f"segment {lease.segment} of {lease.run_id} belongs to another attempt")
        segment.leased_until = until

    async def hand_back(self, lease: Lease, *, strike: str | None = None) -> bool:
        segment = self.world.held(lease)
        if segment is None:
            return False
        segment.reopen(strike=strike)
        if self.world.is_wanted(lease.run_id):
            run = self.world.run(lease.run_id)
            contender = Contender(run.id, run.virtual_time, self._weight(run))
            self.world.set_run(replace(run, virtual_time=refunded(contender, segment.plan.frame_count)))
        return True

    async def wait(self, run_id: str, failure: Failure, *, tried_at: datetime, now: datetime) -> datetime:
        run = self.world.run(run_id)
        others = [other.waiting for other in self.world.runs_at_work() if other.waiting is not None]
        waiting = waiting_after(run.waiting, failure, others=others, tried_at=tried_at, now=now)
        if run.state is RunState.OPEN and is_news(waiting, run.waiting):
            self.world.set_run(replace(run, waiting=waiting))
        return waiting.since

    async def is_wanted(self, run_id: str) -> bool:
        return self.world.is_wanted(run_id)

    async def free_leases(self) -> int:
        return sum(self._reopen_all(run_id, strike=WorkerLostError.code) for run_id in self.world.segments)

    async def to_finalize(self) -> Sequence[Run]:
        for run in list(self.world.runs.values()):
            if run.state is RunState.OPEN and run.segments_done == run.segments_total:
                self.world.set_run(replace(run, state=moved(NEXT_RUN_STATES, run.state, RunState.FINALIZING)))
        return [run for run in self.world.runs.values() if run.state is RunState.FINALIZING]

    async def succeed(self, run_id: str, *, now: datetime) -> Sequence[Job]:
        run = self.world.run(run_id)
        if run.state is RunState.SUCCEEDED:
            return ()
        state = moved(NEXT_RUN_STATES, run.state, RunState.SUCCEEDED)
        self.world.set_run(replace(run, state=state, finished_at=now))
        for segment in self.world.segments[run_id]:
            segment.part = None
        live = self.world.jobs_in(*LIVE_JOB_STATES, run_id=run_id)
        return [self.world.move(job, JobState.SUCCEEDED, now=now) for job in live]

    async def fail(self, run_id: str, failure: Failure, *, now: datetime) -> Sequence[Job]:
        run = self.world.run(run_id)
        if run.state is RunState.FAILED:
            return ()
        if run.state is RunState.SUCCEEDED:
            raise TransitionError(f"{run_id} has succeeded; only losing its results may fail it")
        state = moved(NEXT_RUN_STATES, run.state, RunState.FAILED)
        self.world.set_run(replace(run, state=state, waiting=None, failure=failure, finished_at=now))
        self._reopen_all(run_id)
        ended = []
        for job in self.world.jobs_in(*LIVE_JOB_STATES, run_id=run_id):
            end = state_after_failed_run(job)
            ended.append(self.world.move(job, end, now=now, failure=failure if end is JobState.FAILED else None))
        return ended

    async def lose_results(self, run_id: str, failure: Failure) -> None:
        run = self.world.run(run_id)
        if run.state is RunState.SUCCEEDED:
            state = moved(NEXT_RUN_STATES, run.state, RunState.FAILED)
            self.world.set_run(replace(run, state=state, failure=failure))

    async def ids(self) -> frozenset[str]:
        return frozenset(self.world.runs)

    def _weight(self, run: Run) -> int:
        return max(job.priority for job in self.world.jobs_in(JobState.RUNNING, run_id=run.id))

    def _lease(self, contender: Contender, segment: StoredSegment, *, until: datetime) -> LeasedSegment:
        if segment.state is SegmentState.LEASED:
            segment.reopen(strike=WorkerLostError.code)
        segment.state, segment.attempt, segment.leased_until = SegmentState.LEASED, segment.attempt + 1, until
        run = self.world.runs[contender.run_id]
        run = replace(run, virtual_time=charged(contender, segment.plan.frame_count))
        self.world.set_run(run)
        lease = Lease(run.id, segment.plan.number, segment.attempt, until)
        return LeasedSegment(
            lease=lease, plan=segment.plan, run=run, strikes=segment.strikes, strike_reason=segment.strike_reason
        )

    def _reopen_all(self, run_id: str, *, strike: str | None = None) -> int:
        leased = [each for each in self.world.segments.get(run_id, []) if each.state is SegmentState.LEASED]
        for segment in leased:
            segment.reopen(strike=strike)
        return len(leased)


@dataclass(frozen=True, slots=True)
class MemoryPartStore:
    world: World

    async def commit(self, lease: Lease, result: SegmentResult, *, now: datetime) -> Run:
        segment = self.world.segment(lease)
        if segment is None or segment.attempt != lease.attempt or segment.state is SegmentState.OPEN:
            raise LeaseLostError(f"segment {lease.segment} of {lease.run_id} belongs to another attempt")
        run = self.world.runs[lease.run_id]
        if segment.state is SegmentState.DONE:
            return run
        run = committed_run(run, result)
        segment.state, segment.leased_until = SegmentState.DONE, None
        segment.frames, segment.part = frame_span(result), result.candidates
        segment.failed = {stamp.index: reason for stamp, reason in result.report.failed}
        self.world.set_run(run)
        self.world.tell([segment_event(run, segment.plan, result)], run_id=run.id, now=now)
        return run

    async def read(self, run_id: str, *, first_frame: int, last_frame: int | None) -> AsyncIterator[Candidates]:
        for segment in list(self._committed(run_id)):
            first, last = segment.frames or (0, -1)
            if last < first_frame or (last_frame is not None and first > last_frame):
                continue
            if segment.part is None:
                raise PartsMovedError(f"the candidates of {run_id} have moved to the archive; read on from there")
            yield segment.part.within(first_frame, last_frame)

    async def complete_through(self, run_id: str) -> int | None:
        return max((segment.frames[1] for segment in self._committed(run_id) if segment.frames), default=None)

    async def failed_frames(self, run_id: str) -> Mapping[int, str]:
        return {
            frame: reason for segment in self.world.segments.get(run_id, []) for frame, reason in segment.failed.items()
        }

    def _committed(self, run_id: str) -> list[StoredSegment]:
        """The segments before the first one that is not committed."""
        committed = []
        for segment in self.world.segments.get(run_id, []):
            if segment.state is not SegmentState.DONE:
                break
            committed.append(segment)
        return committed
