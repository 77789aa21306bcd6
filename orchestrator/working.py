"""What a worker does: take the fairest segment, run it, and decide what follows a failure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from orchestrator.core.ledger import all_failed
from orchestrator.core.planning import earlier_entries, short_cuts
from orchestrator.core.postponed import Postponed
from orchestrator.core.records import Failure, LeasedSegment, Run, SegmentResult
from orchestrator.core.sampling import SampledFrames
from orchestrator.core.shortage import is_shortage
from orchestrator.core.types import Candidates, Lease, ServedModel, StageSeconds
from orchestrator.errors import (
    DecoderCrashedError,
    DecoderError,
    DecoderUnavailableError,
    InferenceError,
    LeaseLostError,
    NotFoundError,
    RunUnwantedError,
    StorageError,
    TrireelError,
    VideoError,
)
from orchestrator.metering import Meters
from orchestrator.ports import EventBus, ModelCatalogue, SegmentRequest, VideoFiles, VideoStore
from orchestrator.sampled_runs import SampledRuns
from orchestrator.segment import SegmentTools, close_unwanted, commit_segment, run_segment
from orchestrator.upkeep import Upkeep

log = structlog.get_logger()

# A segment that killed its decoder so often is given up: its frames are failed, the job goes on.
MAX_STRIKES: Final = 3
UNEXPECTED: Final = Failure(
    code=TrireelError.code, message="the server met a defect of its own; its log has the details, please report them"
)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One taker of segments. batch_frames: most frames a request to Triton. retry_pause_s: of a run that waits.

    wait_budget_s: how long a run may wait for Triton or its model, without a segment committed, before it fails.
    after: the run and segment it ended last, whose decoder is still open. owed: leases that the database was not there
    to take back, with the strike of each; one that is taken over when it has expired would count as a crash of ours.
    """

    tools: SegmentTools
    videos: VideoStore
    files: VideoFiles
    sampled: SampledRuns
    catalogue: ModelCatalogue
    bus: EventBus
    meters: Meters
    upkeep: Upkeep
    postponed: Postponed
    batch_frames: int
    retry_pause_s: float
    wait_budget_s: float
    after: tuple[str, int] | None = None
    owed: list[tuple[Lease, str | None]] = field(default_factory=list)

    async def work_once(self) -> bool:
        """Take one segment to its end; False if there was none to take."""
        await self._hand_back_owed()
        now = self.tools.utc_now()
        until = now + timedelta(seconds=self.tools.lease_s)
        avoid = self.postponed.at(self.tools.monotonic_s())
        leased = await self.tools.runs.lease_next(after=self.after, avoid=avoid, now=now, until=until)
        if leased is None:
            await self._let_go_of_last()
            return False
        with structlog.contextvars.bound_contextvars(run_id=leased.run.id, segment=leased.plan.number):
            try:
                await self._work_on(leased, leased_at=now)
            except asyncio.CancelledError:
                await self.meters.gave_up(leased.run.id, leased.plan.number)
                await self._hand_back_at_stop(leased)
                raise
            except TrireelError:
                # Storage failed while a failure was dealt with: the loop pauses.
                raise
            except Exception:
                # The top of a background task: a defect of ours ends the run truthfully instead of looping.
                log.exception("segment failed unexpectedly")
                await self.tools.runs.hand_back(leased.lease)
                await self._fail(leased.run, UNEXPECTED)
        return True

    async def _hand_back_owed(self) -> None:
        while self.owed:
            lease, strike = self.owed[-1]
            await self.tools.runs.hand_back(lease, strike=strike)
            self.owed.pop()

    async def _hand_back_at_stop(self, leased: LeasedSegment) -> None:
        """A stop is not held up by a database that is away: the lease then ends by itself."""
        try:
            await asyncio.shield(self.tools.runs.hand_back(leased.lease))
        except TrireelError as exc:
            log.warning("segment could not be handed back", code=exc.code, message=str(exc))

    async def _let_go_of_last(self) -> None:
        """End the decoders of the run worked on last, once nobody wants it: who finalizes it may be another process."""
        if self.after is not None and await close_unwanted(self.after[0], self.tools.runs, self.tools.reader):
            self.after = None

    async def _work_on(self, leased: LeasedSegment, *, leased_at: datetime) -> None:
        failure: TrireelError | None = None
        try:
            is_lost = leased.strikes >= MAX_STRIKES
            with structlog.contextvars.bound_contextvars(job_ids=await self.upkeep.job_ids(leased.run.id)):
                run = await (self._give_frames_up(leased) if is_lost else self._infer(leased))
        except* TrireelError as group:
            failure = worst_of(group)
        except* OSError as group:
            # Anything may want a descriptor, the import of a library too.
            if not is_shortage(group):
                raise
            failure = failure or DecoderUnavailableError("the server has no resources left for a segment")
        if failure is not None:
            self.after = None
            await self.meters.gave_up(leased.run.id, leased.plan.number)
            await self._after_failure(leased, failure, leased_at=leased_at)
            return
        self.after = (leased.run.id, leased.plan.number)
        await self.meters.committed(run, leased.plan.number)
        await self.bus.ring(run.id)
        if run.segments_done == run.segments_total:
            self.upkeep.work.ring()

    async def _infer(self, leased: LeasedSegment) -> Run:
        run = leased.run
        video = await self.videos.get(run.video_id)
        model = await self._served(run)
        frames = await self.sampled.of(run)
        self.meters.begin(run, video, frames)
        # Enough for Triton to work on one batch an instance while the next ones wait at its door.
        self.tools.window.widen(2 * min(self.batch_frames, model.max_batch) * model.instances)

        async def on_inferred(count: int) -> None:
            await self.meters.inferred(run.id, leased.plan.number, count)

        request = self._request(leased, frames, model)
        return await run_segment(leased, request, model, self.tools, on_inferred=on_inferred)

    async def _served(self, run: Run) -> ServedModel:
        """The run's model as Triton serves it. Raises ModelChangedError when it is another network by now."""
        wanted = run.spec.model
        served = await self.catalogue.find(wanted.name, wanted.version)
        served.require_digest(wanted.digest)
        return served

    def _request(self, leased: LeasedSegment, frames: SampledFrames, model: ServedModel) -> SegmentRequest:
        plan = leased.plan
        positions = frames.positions[plan.first_sample : plan.last_sample + 1]
        return SegmentRequest(
            run_id=leased.run.id,
            path=self.files.content_path(leased.run.video_id),
            plan=plan,
            stamps=frames.stamps(plan.first_sample, plan.last_sample),
            wanted_pts=frames.index.pts[positions] if frames.index.is_timed else positions,
            earlier_entries=earlier_entries(frames.index, plan.entry_pts),
            short_cuts=short_cuts(frames, plan),
            is_timed=frames.index.is_timed,
            imgsz=model.card.imgsz,
            stride=model.card.stride,
            batch_frames=min(self.batch_frames, model.max_batch),
        )

    async def _give_frames_up(self, leased: LeasedSegment) -> Run:
        """Commit a segment that no decoder survives, all its frames failed as the last attempt was."""
        frames = await self.sampled.of(leased.run)
        stamps = frames.stamps(leased.plan.first_sample, leased.plan.last_sample)
        # Strikes of releases that kept no reason were crashes, as far as anybody knows.
        reason = leased.strike_reason or DecoderCrashedError.code
        log.warning("segment given up", strikes=leased.strikes, reason=reason, frames=len(stamps))
        result = SegmentResult(
            candidates=Candidates.empty(),
            stamps=(),
            report=all_failed(stamps, reason),
            seconds=StageSeconds(),
        )
        return await commit_segment(leased, result, self.tools)

    async def _after_failure(self, leased: LeasedSegment, error: TrireelError, *, leased_at: datetime) -> None:
        """Hand the segment back, or end its run, by the kind of the error."""
        run = leased.run
        is_strike = isinstance(error, DecoderError) and not isinstance(error, DecoderUnavailableError)
        strike = error.code if is_strike else None
        try:
            is_held = await self.tools.runs.hand_back(leased.lease, strike=strike)
        except StorageError:
            self.owed.append((leased.lease, strike))
            raise
        job_ids = await self.upkeep.job_ids(run.id)
        if not is_held:
            log.warning("segment lost to another attempt", job_ids=job_ids, code=error.code)
            await close_unwanted(run.id, self.tools.runs, self.tools.reader)
        elif isinstance(error, RunUnwantedError):
            await self.tools.reader.close_run(run.id)
            await self.upkeep.settle_cancelled()
        elif is_strike:
            strikes = leased.strikes + 1
            log.warning("decoder failed", job_ids=job_ids, code=error.code, message=str(error), strikes=strikes)
        elif error.retryable:
            log.warning("run waits", job_ids=job_ids, code=error.code, message=str(error))
            await self._postpone(run, Failure(code=error.code, message=str(error)), tried_at=leased_at)
        else:
            await self._fail(run, Failure(code=error.code, message=str(error)))

    async def _postpone(self, run: Run, failure: Failure, *, tried_at: datetime) -> None:
        """Leave the run aside for a moment, and let its jobs tell why; end it when it has waited long enough."""
        self.postponed.postpone(run.id, until_s=self.tools.monotonic_s() + self.retry_pause_s)
        now = self.tools.utc_now()
        try:
            since = await self.tools.runs.wait(run.id, failure, tried_at=tried_at, now=now)
        except NotFoundError:
            log.info("run was deleted while it waited", code=failure.code)
            return
        waited_s = (now - since).total_seconds()
        if waited_s >= self.wait_budget_s:
            await self._fail(run, waited_in_vain(failure, waited_s=waited_s))

    async def _fail(self, run: Run, failure: Failure) -> None:
        try:
            await self.upkeep.fail(run, failure)
        except NotFoundError:
            log.info("run was deleted while it failed", code=failure.code)


def waited_in_vain(failure: Failure, *, waited_s: float) -> Failure:
    """Why a run ends that could not go on for so long. failure: of its last attempt."""
    message = (
        f"the run waited {waited_s:.0f} s in vain, longer than TRIREEL_WAIT_BUDGET_S allows: {failure.message}; "
        "retry the job once that is mended: what was inferred is kept"
    )
    return replace(failure, message=message)


# Which error of a group decides: the later in this list, the more it says about what to do.
SEVERITY: Final = (TrireelError, InferenceError, DecoderError, VideoError, RunUnwantedError, LeaseLostError)


def worst_of(group: BaseExceptionGroup[TrireelError]) -> TrireelError:
    """The error of a (nested) group that decides what happens next."""
    errors: list[TrireelError] = []

    def gather(member: BaseException) -> None:
        if isinstance(member, BaseExceptionGroup):
            for inner in member.exceptions:
                gather(inner)
        elif isinstance(member, TrireelError):
            errors.append(member)

    gather(group)
    return max(errors, key=lambda error: max(rank for rank, kind in enumerate(SEVERITY) if isinstance(error, kind)))
