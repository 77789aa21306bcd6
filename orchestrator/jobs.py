"""The use cases of jobs: submit, look, cancel, retry, delete."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

import structlog

from orchestrator.announcing import Announcer
from orchestrator.core.contract import DEFAULT_CONFIDENCE, MAX_CANDIDATES
from orchestrator.core.records import IdempotencyKey, Job, Progress, Run, Video, Waiting
from orchestrator.core.states import IndexState, JobState, RunState
from orchestrator.core.types import JobSpec, RunSpec, Sampling, ServedModel, View
from orchestrator.core.views import checked_view, class_ids_of
from orchestrator.errors import RequestInvalidError
from orchestrator.metering import Meters
from orchestrator.ports import (
    CandidateArchive,
    JobStore,
    ModelCatalogue,
    Page,
    RunStore,
    VideoReader,
    VideoStore,
)
from orchestrator.segment import close_unwanted

log = structlog.get_logger()

VERSION = re.compile(r"[0-9]{1,10}", re.ASCII)
# What the database counts versions with.
LARGEST_VERSION = 2**31 - 1

STAGE_BY_RUN_STATE = {
    RunState.WAITING: "planning",
    RunState.OPEN: "inferring",
    RunState.FINALIZING: "finalizing",
    RunState.SUCCEEDED: "finalizing",
    RunState.FAILED: "finalizing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What somebody asks for. model: "name" or "name:version". iou: None is the version's.

    classes: names or ids; None lets all through.
    """

    video_id: str
    model: str
    sampling: Sampling = field(default_factory=Sampling)
    min_confidence: float = DEFAULT_CONFIDENCE
    iou: float | None = None
    classes: tuple[str, ...] | None = None
    max_det: int = MAX_CANDIDATES
    priority: int = 50
    timeout_s: float | None = None
    tags: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256 over its canonical JSON: two bodies that ask for the same have the same."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSnapshot:
    """A job with all that an answer shows of it. stage: queued, indexing, planning, inferring, finalizing or done."""

    job: Job
    run: Run
    video: Video
    progress: Progress
    stage: str
    queue_position: int | None

    @property
    def waiting_for(self) -> Waiting | None:
        """What keeps the job's run from going on just now, such as a Triton that is away."""
        return self.run.waiting if self.job.state is JobState.RUNNING else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """utc_now: aware."""

    store: JobStore
    runs: RunStore
    videos: VideoStore
    archive: CandidateArchive
    reader: VideoReader
    catalogue: ModelCatalogue
    announcer: Announcer
    meters: Meters
    utc_now: Callable[[], datetime]

    async def submit(self, request: JobRequest, *, owner: str) -> JobSnapshot:
        """Take a job and answer at once; the work follows in the background.

        Raises VideoNotFoundError, ModelNotFoundError, ModelNotReadyError, RequestInvalidError.
        """
        video = await self.videos.get(request.video_id)
        spec, model = await self._spec_of(request, video)
        job, run = await self.store.submit(spec, card=model.card, video_id=video.id, owner=owner, now=self.utc_now())
        return await self._tell_submitted(job, run, video)

    async def submit_once(self, request: JobRequest, *, key: str, owner: str) -> tuple[JobSnapshot, bool]:
        """`submit`, unless the owner's `key` has made a job before, which is then shown as it is now, with True.

        Raises IdempotencyKeyInvalidError; IdempotencyKeyReusedError when the key named another request before,
        JobNotFoundError when its job was deleted; and as `submit`.
        """
        named = IdempotencyKey(text=key, request_sha256=request.digest())
        # First, so that an answer that was lost is found again also while the model is away.
        found = await self.store.submitted(named, owner=owner)
        if found is not None:
            return await self._snapshot_of(found), True
        video = await self.videos.get(request.video_id)
        spec, model = await self._spec_of(request, video)
        job, run, is_known = await self.store.submit_once(
            spec, key=named, card=model.card, video_id=video.id, owner=owner, now=self.utc_now()
        )
        if is_known:
            return self._assemble(job, run, video, await self._queue_positions([job])), True
        return await self._tell_submitted(job, run, video), False

    async def snapshot(self, job_id: str) -> JobSnapshot:
        """Raises JobNotFoundError."""
        return await self._snapshot_of(await self.store.get(job_id))

    async def page(
        self, *, limit: int, cursor: str | None, states: Collection[JobState] = (), model: str | None = None
    ) -> Page[JobSnapshot]:
        """Newest first. model: "name" or "name:version". Raises CursorInvalidError, RequestInvalidError."""
        if model is not None:
            parse_model(model)
        page = await self.store.page(limit=limit, cursor=cursor, states=states, model=model)
        runs = await self.runs.many({job.run_id for job in page.items})
        videos = await self.videos.many({job.video_id for job in page.items})
        positions = await self._queue_positions(page.items)
        snapshots = [
            self._assemble(job, runs[job.run_id], videos[job.video_id], positions)
            for job in page.items
            # A job may be deleted between the look-ups.
            if job.run_id in runs and job.video_id in videos
        ]
        return Page(items=snapshots, next_cursor=page.next_cursor)

    async def cancel(self, job_id: str) -> JobSnapshot:
        """Let go of the job's run; legal in every state, and twice. Raises JobNotFoundError."""
        job, has_moved = await self.store.cancel(job_id, now=self.utc_now())
        if has_moved:
            await self.announcer.announce([job])
        await self.announcer.announce(await self.store.settle_cancelled(now=self.utc_now()))
        await close_unwanted(job.run_id, self.runs, self.reader)
        return await self.snapshot(job_id)

    async def retry(self, job_id: str) -> JobSnapshot:
        """Queue a job that failed or was cancelled once more; segments that are committed are not worked on again.

        Raises JobNotFoundError; TransitionError from other states.
        """
        job, orphaned_run = await self.store.retry(job_id, now=self.utc_now())
        if orphaned_run:
            await self._forget_run(orphaned_run)
        await self.announcer.announce([job])
        return await self._snapshot_of(job)

    async def remove(self, job_id: str) -> None:
        """Delete the job in any state, and what nobody else uses of its run. Raises JobNotFoundError."""
        job = await self.store.get(job_id)
        orphaned_run = await self.store.remove(job_id)
        if orphaned_run:
            await self._forget_run(orphaned_run)
        await close_unwanted(job.run_id, self.runs, self.reader)
        await self.announcer.removed(job_id)

    async def _spec_of(self, request: JobRequest, video: Video) -> tuple[JobSpec, ServedModel]:
        name, version = parse_model(request.model)
        model = await self.catalogue.find(name, version)
        view = View(
            min_confidence=request.min_confidence,
            iou=model.card.iou if request.iou is None else request.iou,
            class_ids=None if request.classes is None else class_ids_of(request.classes, model.card),
            max_det=request.max_det,
        )
        spec = JobSpec(
            run=RunSpec(video.sha256, model.version, request.sampling),
            view=checked_view(view, model.card),
            priority=request.priority,
            timeout_s=request.timeout_s,
            tags=request.tags,
        )
        return spec, model

    async def _tell_submitted(self, job: Job, run: Run, video: Video) -> JobSnapshot:
        log.info("job submitted", job_id=job.id, run_id=run.id, video_id=video.id, model=str(run.spec.model))
        await self.announcer.announce([job])
        return self._assemble(job, run, video, await self._queue_positions([job]))

    async def _forget_run(self, run_id: str) -> None:
        """Of one whose rows are deleted, the rest."""
        await self.archive.remove(run_id)
        self.meters.end(run_id)

    async def _snapshot_of(self, job: Job) -> JobSnapshot:
        run, video = await self.runs.get(job.run_id), await self.videos.get(job.video_id)
        return self._assemble(job, run, video, await self._queue_positions([job]))

    async def _queue_positions(self, jobs: Sequence[Job]) -> Mapping[str, int]:
        return await self.store.queue_positions({job.id for job in jobs if job.state is JobState.QUEUED})

    def _assemble(self, job: Job, run: Run, video: Video, queue_positions: Mapping[str, int]) -> JobSnapshot:
        stage = stage_of(job, run, video)
        return JobSnapshot(
            job=job,
            run=run,
            video=video,
            progress=self.meters.snapshot(run, stage=stage),
            stage=stage,
            queue_position=queue_positions.get(job.id),
        )


def stage_of(job: Job, run: Run, video: Video) -> str:
    """Where the work on a job is."""
    if job.state.is_terminal:
        return "done"
    if job.state is JobState.QUEUED:
        return "queued"
    if run.state is RunState.WAITING and video.index_state is IndexState.PENDING:
        return "indexing"
    return STAGE_BY_RUN_STATE[run.state]


def parse_model(text: str) -> tuple[str, int | None]:
    """Split "name" or "name:version". Raises RequestInvalidError."""
    name, colon, version = text.partition(":")
    if not name or (colon and not (VERSION.fullmatch(version) and 0 < int(version) <= LARGEST_VERSION)):
        raise RequestInvalidError(f"name a model like yolo11n or yolo11n:2, not {text!r:.80}")
    return name, int(version) if colon else None
