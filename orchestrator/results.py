"""Views of a job's candidates: detections in frame order, and counts over time; during the run and afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from orchestrator.core.records import Job, Run, Video
from orchestrator.core.sampling import SampledFrames
from orchestrator.core.states import RunState
from orchestrator.core.types import Candidates, View
from orchestrator.core.views import apply_view, checked_view, class_ids_of, suppresses_again
from orchestrator.errors import PartsMovedError, ServerStoppingError, ThresholdOutOfRangeError
from orchestrator.ports import CandidateArchive, EventBus, JobStore, PartStore, RunStore, VideoStore
from orchestrator.sampled_runs import SampledRuns
from orchestrator.waking import next_wake

log = structlog.get_logger()

# As many frames as the archive keeps in a row group: a page reads one or two of them.
BLOCK_FRAMES: Final = 1000
FOLLOW_POLL_S: Final = 15.0
# Of one timeline: 40 MB, and far more than anybody plots.
MOST_COUNTS: Final = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRequest:
    """What somebody asks of a job's candidates; None is the job's own. classes: names or ids."""

    min_confidence: float | None = None
    iou: float | None = None
    classes: tuple[str, ...] | None = None
    max_det: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionBlock:
    """Consecutive sampled frames and their detections.

    frame_index: int32 (F,). pts_ms: float64 (F,). failed: reasons by source index, of frames that gave no picture.
    detections: sorted by frame, best first; of these frames only.
    """

    frame_index: NDArray[np.int32]
    pts_ms: NDArray[np.float64]
    failed: Mapping[int, str]
    detections: Candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultHeader:
    """What a reader must know before the first detection.

    complete_through_frame: source index of the last sampled frame whose fate is known, None if there is none.
    """

    job: Job
    run: Run
    video: Video
    view: View
    class_names: tuple[str, ...]
    is_second_suppression: bool
    complete_through_frame: int | None
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Counts over time. starts_s: float64 (B,). frames: int64 (B,), sampled ones. counts: int64 (B, C)."""

    bucket_s: float
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    starts_s: NDArray[np.float64]
    frames: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """stopping: set when the server stops; views that follow a run break off then."""

    jobs: JobStore
    runs: RunStore
    videos: VideoStore
    parts: PartStore
    archive: CandidateArchive
    sampled: SampledRuns
    bus: EventBus
    stopping: asyncio.Event

    async def open(
        self,
        job_id: str,
        request: ViewRequest,
        *,
        first_frame: int = 0,
        last_frame: int | None = None,
        follow: bool = False,
    ) -> tuple[ResultHeader, AsyncIterator[DetectionBlock]]:
        """The header, and the blocks of frames first_frame..last_frame (source indices, inclusive).

        follow: go on until the job ends. Raises JobNotFoundError, RequestInvalidError, both before the first block;
        the blocks raise ServerStoppingError where the server stops first, JobNotFoundError where the job is deleted.
        """
        header = await self._header(job_id, request)
        if first_frame < 0 or (last_frame is not None and last_frame < first_frame):
            raise ThresholdOutOfRangeError("from_frame must be 0 or more, and to_frame not before it")
        return header, self._blocks(header, first_frame=first_frame, last_frame=last_frame, follow=follow)

    async def of_frames(self, run: Run, view: View, *, first_frame: int, last_frame: int) -> Candidates:
        """The detections of frames first_frame..last_frame (source indices, inclusive)."""
        candidates = await self._candidates(run, first_frame=first_frame, last_frame=last_frame)
        return apply_view(candidates, view, run.card)

    async def timeline(self, job_id: str, request: ViewRequest, *, bucket_s: float) -> tuple[ResultHeader, Timeline]:
        """Detections per class and bucket of time, over the frames known so far. Raises as `open` does."""
        header = await self._header(job_id, request)
        if not 0.01 <= bucket_s <= 86_400:
            raise ThresholdOutOfRangeError(f"bucket_s must lie between 0.01 and 86400, not {bucket_s}")
        chosen = header.view.class_ids
        class_ids = tuple(range(len(header.class_names)) if chosen is None else sorted(chosen))
        duration_s = header.video.report.duration_s if header.video.report else 0.0
        if duration_s / bucket_s * max(len(class_ids), 1) > MOST_COUNTS:
            raise ThresholdOutOfRangeError(
                f"{duration_s:.0f} s in buckets of {bucket_s} s are too many; choose a larger bucket_s or fewer classes"
            )
        counts = _BucketCounts(1000 * bucket_s, len(header.class_names))
        if header.is_complete:
            await self._count_archived(header, counts)
        else:
            async for block in self._blocks(header, first_frame=0, last_frame=None, follow=False):
                counts.add_frames(block.pts_ms)
                counts.add_detections(block.detections)
        timeline = Timeline(
            bucket_s=bucket_s,
            class_ids=class_ids,
            class_names=tuple(header.class_names[class_id] for class_id in class_ids),
            starts_s=np.arange(len(counts.frames), dtype=np.float64) * np.float64(bucket_s),
            frames=counts.frames,
            counts=counts.detections[:, list(class_ids)],
        )
        return header, timeline

    async def _count_archived(self, header: ResultHeader, counts: _BucketCounts) -> None:
        """All of a finished run, in one pass over its archive that leaves out what counting does not need."""
        run, frames = header.run, await self.sampled.of(header.run)
        counts.add_frames(frames.pts_ms(0, len(frames) - 1))
        groups = self.archive.read(run.id, first_frame=0, last_frame=None, with_boxes=header.is_second_suppression)
        async for group in groups:
            await asyncio.to_thread(counts.add_detections_of, group, header)

    async def _header(self, job_id: str, request: ViewRequest) -> ResultHeader:
        job = await self.jobs.get(job_id)
        run = await self.runs.get(job.run_id)
        view = checked_view(_merged(job.view, request, run), run.card)
        return ResultHeader(
            job=job,
            run=run,
            video=await self.videos.get(job.video_id),
            view=view,
            class_names=run.card.class_names,
            is_second_suppression=suppresses_again(view, run.card),
            complete_through_frame=await self._complete_through(run),
            is_complete=run.state is RunState.SUCCEEDED,
        )

    async def _complete_through(self, run: Run) -> int | None:
        if run.frames_total is None:
            return None
        if run.state is not RunState.SUCCEEDED:
            return await self.parts.complete_through(run.id)
        frames = await self.sampled.of(run)
        return int(frames.positions[-1])

    async def _candidates(self, run: Run, *, first_frame: int, last_frame: int) -> Candidates:
        """All candidates of the frames, from wherever the run keeps them now."""
        if run.state is not RunState.SUCCEEDED:
            try:
                parts = self.parts.read(run.id, first_frame=first_frame, last_frame=last_frame)
                pieces = [part async for part in parts]
            except PartsMovedError:
                log.debug("run was finalized while it was read", run_id=run.id)
            else:
                # A run that was deleted meanwhile has no parts either, which must not pass as "no detections".
                await self.runs.get(run.id)
                return Candidates.concatenate(pieces)
        groups = self.archive.read(run.id, first_frame=first_frame, last_frame=last_frame)
        return Candidates.concatenate([group async for group in groups])

    async def _blocks(
        self, header: ResultHeader, *, first_frame: int, last_frame: int | None, follow: bool
    ) -> AsyncIterator[DetectionBlock]:
        """Blocks as far as frames are known; with `follow`, until the run has ended."""
        job_id, run = header.job.id, header.run
        frames: SampledFrames | None = None
        next_frame = first_frame
        async with self.bus.subscribe(job_id, run.id) as subscription:
            while True:
                # The states are read before the frames: an end seen here cannot hide frames that came before it.
                job, run = await self.jobs.get(job_id), await self.runs.get(run.id)
                through = await self._complete_through(run)
                if through is not None:
                    frames = frames or await self.sampled.of(run)
                    end = through if last_frame is None else min(through, last_frame)
                    failed = await self.parts.failed_frames(run.id)
                    for first, last in _page_bounds(frames, next_frame, end):
                        yield await self._block(run, frames, header.view, first=first, last=last, failed=failed)
                    next_frame = max(next_frame, end + 1)
                is_read = last_frame is not None and next_frame > last_frame
                if is_read or not follow or run.state is RunState.SUCCEEDED or job.state.is_terminal:
                    return
                await next_wake(subscription, self.stopping, timeout_s=FOLLOW_POLL_S)
                if self.stopping.is_set():
                    raise ServerStoppingError("the server stops before the job has ended; ask again when it is back")

    async def _block(
        self, run: Run, frames: SampledFrames, view: View, *, first: int, last: int, failed: Mapping[int, str]
    ) -> DetectionBlock:
        """The block of samples first..last, inclusive."""
        positions = frames.positions[first : last + 1].astype(np.int32)
        from_frame, to_frame = int(positions[0]), int(positions[-1])
        return DetectionBlock(
            frame_index=positions,
            pts_ms=frames.pts_ms(first, last),
            failed={frame: reason for frame, reason in failed.items() if from_frame <= frame <= to_frame},
            detections=await self.of_frames(run, view, first_frame=from_frame, last_frame=to_frame),
        )


class _BucketCounts:
    """Frames int64 (B,) and detections int64 (B, C) in buckets of time, growing with the frames."""

    def __init__(self, bucket_ms: float, class_count: int) -> None:
        self._bucket_ms = bucket_ms
        self.frames = np.zeros(0, dtype=np.int64)
        self.detections = np.zeros((0, class_count), dtype=np.int64)

    def add_frames(self, pts_ms: NDArray[np.float64]) -> None:
        """Sampled frames, ascending, at least one."""
        buckets = self._buckets(pts_ms)
        more = max(int(buckets[-1]) + 1 - len(self.frames), 0)
        self.frames = np.pad(self.frames, (0, more))
        self.detections = np.pad(self.detections, ((0, more), (0, 0)))
        self.frames += np.bincount(buckets, minlength=len(self.frames))

    def add_detections_of(self, candidates: Candidates, header: ResultHeader) -> None:
        """What the header's view shows of candidates of frames that were added."""
        self.add_detections(apply_view(candidates, header.view, header.run.card))

    def add_detections(self, found: Candidates) -> None:
        """Detections of frames that were added."""
        np.add.at(self.detections, (self._buckets(found.pts_ms), found.class_ids), 1)

    def _buckets(self, pts_ms: NDArray[np.float64]) -> NDArray[np.int64]:
        # A millionth of a bucket of slack: a time stamp of one second must not fall short of it by rounding.
        return np.floor(pts_ms / self._bucket_ms + 1e-6).astype(np.int64)


def _page_bounds(frames: SampledFrames, first_frame: int, last_frame: int) -> list[tuple[int, int]]:
    """Cut the samples within first_frame..last_frame into blocks: first and last sample of each."""
    first = int(np.searchsorted(frames.positions, first_frame))
    end = int(np.searchsorted(frames.positions, last_frame, side="right"))
    return [(start, min(start + BLOCK_FRAMES, end) - 1) for start in range(first, end, BLOCK_FRAMES)]


def _merged(view: View, request: ViewRequest, run: Run) -> View:
    """The job's view with what the request names put in its place."""
    if request.min_confidence is not None:
        view = replace(view, min_confidence=request.min_confidence)
    if request.iou is not None:
        view = replace(view, iou=request.iou)
    if request.max_det is not None:
        view = replace(view, max_det=request.max_det)
    if request.classes is not None:
        view = replace(view, class_ids=class_ids_of(request.classes, run.card))
    return view
