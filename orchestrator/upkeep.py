"""What happens to runs between segments: admit jobs, plan, finalize, fail, settle what was cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from orchestrator.announcing import Announcer
from orchestrator.core.planning import plan_segments
from orchestrator.core.records import Failure, Job, Run
from orchestrator.errors import NotFoundError, TrireelError, VideoWithoutFramesError
from orchestrator.metering import Meters
from orchestrator.ports import (
    CandidateArchive,
    Doorbell,
    EventBus,
    JobStore,
    PartStore,
    RunStore,
    VideoReader,
    VideoStore,
)
from orchestrator.sampled_runs import SampledRuns
from orchestrator.segment import close_unwanted

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """segment_frames: sampled frames a segment. work: rung when segments appeared or a place came free."""

    jobs: JobStore
    runs: RunStore
    parts: PartStore
    videos: VideoStore
    sampled: SampledRuns
    archive: CandidateArchive
    reader: VideoReader
    bus: EventBus
    meters: Meters
    announcer: Announcer
    work: Doorbell
    segment_frames: int
    max_running_jobs: int
    utc_now: Callable[[], datetime]

    async def admit_and_plan(self) -> bool:
        """Move jobs out of the queue and lay out their runs; True if anything moved."""
        now = self.utc_now()
        settled = await self.settle_cancelled()
        expired = await self.jobs.expire(now=now)
        moved = [*expired, *await self.jobs.admit(max_running=self.max_running_jobs, now=now)]
        await self.announcer.announce(moved)
        for run_id in {job.run_id for job in expired}:
            await close_unwanted(run_id, self.runs, self.reader)
        planned = await self.runs.to_plan()
        await self._each(planned, self._plan)
        return bool(settled or moved or planned)

    async def finalize_next(self) -> bool:
        """Close the runs all of whose segments are done; True if there was one."""
        complete = await self.runs.to_finalize()
        await self._each(complete, self._finalize)
        return bool(complete)

    async def settle_cancelled(self) -> Sequence[Job]:
        """End the cancelling jobs whose segments are handed back by now."""
        settled = await self.jobs.settle_cancelled(now=self.utc_now())
        await self.announcer.announce(settled)
        return settled

    async def fail(self, run: Run, failure: Failure) -> None:
        """End a run, and every live job of it, for a reason."""
        jobs = await self.runs.fail(run.id, failure, now=self.utc_now())
        job_ids = [job.id for job in jobs]
        log.warning("run failed", run_id=run.id, job_ids=job_ids, code=failure.code, message=failure.message)
        await self._ended(run, jobs)

    async def job_ids(self, run_id: str) -> list[str]:
        """Of the run's live jobs, for the log."""
        return [job.id for job in await self.jobs.of_run(run_id) if not job.state.is_terminal]

    async def _each(self, runs: Sequence[Run], step: Callable[[Run], Awaitable[None]]) -> None:
        """Take the step for every run; one that cannot go on does not hold the others up.

        Raises the last error that may pass, after all had their turn.
        """
        may_pass: TrireelError | None = None
        for run in runs:
            try:
                await step(run)
            except NotFoundError:
                log.info("run was deleted meanwhile", run_id=run.id)
                await self.archive.remove(run.id)
            except TrireelError as exc:
                if exc.retryable:
                    may_pass = exc
                else:
                    await self.fail(run, Failure(code=exc.code, message=str(exc)))
        if may_pass is not None:
            raise may_pass

    async def _plan(self, run: Run) -> None:
        video = await self.videos.get(run.video_id)
        if video.report is None:
            failure = video.index_failure or Failure(code="video_unreadable", message="the video has no index")
            await self.fail(run, failure)
            return
        frames = await self.sampled.of(run)
        if not len(frames):
            message = "the sampling leaves none of the video's frames; choose another start_s and end_s"
            await self.fail(run, Failure(code=VideoWithoutFramesError.code, message=message))
            return
        await self.runs.open(
            run.id,
            plans=plan_segments(frames, segment_frames=self.segment_frames),
            skipped=frames.skipped,
            warnings=video.report.warnings,
            notes=(*video.header.notes, *video.report.notes),
        )
        job_ids = await self.job_ids(run.id)
        log.info("run planned", run_id=run.id, job_ids=job_ids, frames=len(frames), skipped=frames.skipped)
        await self.bus.ring(run.id)
        self.work.ring()

    async def _finalize(self, run: Run) -> None:
        if run.ledger.inferred == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run.ledger.reasons.items()))
            message = f"none of the {run.ledger.planned} sampled frames could be decoded ({reasons})"
            await self.fail(run, Failure(code=VideoWithoutFramesError.code, message=message))
            return
        await self.archive.write(run.id, self.parts.read(run.id, first_frame=0, last_frame=None))
        jobs = await self.runs.succeed(run.id, now=self.utc_now())
        ledger, job_ids = run.ledger, [job.id for job in jobs]
        log.info("run finalized", run_id=run.id, job_ids=job_ids, inferred=ledger.inferred, failed=ledger.failed)
        await self._ended(run, jobs)

    async def _ended(self, run: Run, jobs: Sequence[Job]) -> None:
        self.meters.end(run.id)
        await self.reader.close_run(run.id)
        await self.bus.ring(run.id)
        await self.announcer.announce(jobs)
        self.work.ring()
