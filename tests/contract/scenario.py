"""What the suites of the stores have in common: videos, jobs and segments, moved along by a clock of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from orchestrator.core.contract import ModelCard
from orchestrator.core.records import (
    Failure,
    IdempotencyKey,
    Job,
    LeasedSegment,
    Run,
    SegmentReport,
    SegmentResult,
    Video,
)
from orchestrator.core.types import (
    Candidates,
    FrameStamp,
    IndexReport,
    JobSpec,
    ModelVersion,
    RunSpec,
    Sampling,
    SegmentPlan,
    StageSeconds,
    VideoHeader,
    View,
)
from orchestrator.ports import Stores

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LEASE = timedelta(seconds=60)
MODEL = ModelVersion("shapes", 1, "d" * 64)
CARD = ModelCard(
    class_names=("circle", "square"),
    stride=32,
    imgsz=640,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest=MODEL.digest,
    weights_sha256="e" * 64,
    certificate="passed",
)
HEADER = VideoHeader(
    container="mov,mp4",
    codec="h264",
    width_px=768,
    height_px=432,
    rotation_deg=90,
    is_mirrored=True,
    duration_s_hint=None,
    fps_hint=12.5,
    notes=("hdr",),
)
REPORT = IndexReport(
    frame_count=377, duration_s=30.16, fps=12.5, is_vfr=True, warnings=("input_ends_early",), notes=("upscaled",)
)
FAILURE = Failure(code="video_unreadable", message="no demuxer opens it; convert it to mp4")


@dataclass(slots=True)
class Scenario:
    stores: Stores
    now: datetime = START
    _videos: int = 0

    def later(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    async def add_video(self, video_id: str = "", *, content: str = "a", is_indexed: bool = True) -> Video:
        self._videos += 1
        video = Video(
            id=video_id or f"vid_{self._videos}",
            owner="ann",
            sha256=content * 64,
            size_bytes=5_000_000_000,
            file_name="../Straße.mp4",
            header=HEADER,
            created_at=self.now,
        )
        await self.stores.videos.add(video)
        if is_indexed:
            await self.stores.videos.set_indexed(video.id, REPORT)
        return video

    async def submit(
        self,
        video: Video,
        *,
        every_nth: int = 1,
        priority: int = 50,
        timeout_s: float | None = None,
        model: ModelVersion = MODEL,
        view: View | None = None,
        tags: tuple[str, ...] = (),
    ) -> Job:
        run = RunSpec(video.sha256, model, Sampling(every_nth=every_nth))
        spec = JobSpec(run=run, view=view or View(), priority=priority, timeout_s=timeout_s, tags=tags)
        card = replace(CARD, digest=model.digest)
        job, _ = await self.stores.jobs.submit(spec, card=card, video_id=video.id, owner="ann", now=self.now)
        return job

    async def submit_once(
        self, video: Video, text: str, *, request: str = "a", owner: str = "ann", every_nth: int = 1
    ) -> tuple[Job, bool]:
        """The job, and whether the key `text` had made it before. request: what was asked for, as a digit."""
        spec = JobSpec(run=RunSpec(video.sha256, MODEL, Sampling(every_nth=every_nth)))
        key = IdempotencyKey(text=text, request_sha256=request * 64)
        job, run, is_known = await self.stores.jobs.submit_once(
            spec, key=key, card=CARD, video_id=video.id, owner=owner, now=self.now
        )
        assert run.id == job.run_id
        return job, is_known

    async def admit(self, max_running: int = 20) -> list[Job]:
        return list(await self.stores.jobs.admit(max_running=max_running, now=self.now))

    async def start(
        self, *, segments: int = 3, frames: int = 4, every_nth: int = 1, priority: int = 50, content: str = "a"
    ) -> Job:
        """A RUNNING job whose run is OPEN, with so many segments of so many frames."""
        video = await self.add_video(content=content)
        job = await self.submit(video, every_nth=every_nth, priority=priority)
        await self.admit()
        await self.open_run(job, segments=segments, frames=frames)
        return await self.stores.jobs.get(job.id)

    async def open_run(self, job: Job, *, segments: int = 3, frames: int = 4) -> None:
        await self.stores.runs.open(
            job.run_id, plans=plans_of(segments, frames), skipped=7, warnings=("input_ends_early",), notes=("vfr",)
        )

    async def lease(self, after: LeasedSegment | None = None) -> LeasedSegment | None:
        ended = None if after is None else (after.run.id, after.plan.number)
        return await self.stores.runs.lease_next(after=ended, now=self.now, until=self.now + LEASE)

    async def lease_one(self, after: LeasedSegment | None = None) -> LeasedSegment:
        leased = await self.lease(after)
        assert leased is not None
        return leased

    async def commit(self, leased: LeasedSegment, *, failing: int = 0) -> Run:
        return await self.stores.parts.commit(leased.lease, result_of(leased.plan, failing=failing), now=self.now)

    async def work_to_the_end(self) -> None:
        """Commit all segments there are to be leased."""
        while leased := await self.lease():
            await self.commit(leased)

    async def finish(self, job: Job) -> list[Job]:
        """Work, archive and succeed."""
        await self.work_to_the_end()
        await self.stores.runs.to_finalize()
        await self.stores.archive.write(job.run_id, self.stores.parts.read(job.run_id, first_frame=0, last_frame=None))
        return list(await self.stores.runs.succeed(job.run_id, now=self.now))

    async def read_parts(self, run_id: str, first_frame: int = 0, last_frame: int | None = None) -> Candidates:
        parts = self.stores.parts.read(run_id, first_frame=first_frame, last_frame=last_frame)
        return Candidates.concatenate([part async for part in parts])

    async def read_archive(self, run_id: str, first_frame: int = 0, last_frame: int | None = None) -> Candidates:
        groups = self.stores.archive.read(run_id, first_frame=first_frame, last_frame=last_frame)
        return Candidates.concatenate([group async for group in groups])


def plans_of(segments: int, frames: int) -> list[SegmentPlan]:
    """Segments of equal length; all but the first have an entry."""
    return [
        SegmentPlan(number, number * frames, (number + 1) * frames - 1, 512 * number if number else None)
        for number in range(segments)
    ]


def result_of(plan: SegmentPlan, *, failing: int = 0) -> SegmentResult:
    """A result in which the last `failing` frames gave no picture.

    Sample i is source frame 2i and has i % 3 candidates.
    """
    stamps = [FrameStamp(2 * sample, 80.0 * sample) for sample in range(plan.first_sample, plan.last_sample + 1)]
    inferred, failed = stamps[: len(stamps) - failing], stamps[len(stamps) - failing :]
    return SegmentResult(
        candidates=candidates_of(inferred),
        stamps=tuple(inferred),
        report=SegmentReport(
            entry_pts=plan.entry_pts,
            failed=tuple((stamp, "frame_corrupt") for stamp in failed),
            frame_errors=failing,
            decoding_s=0.5,
        ),
        seconds=StageSeconds(decoding=0.5, waiting=0.25, inferring=2.0, writing=0.125),
    )


def candidates_of(stamps: list[FrameStamp], *, per_frame: int | None = None) -> Candidates:
    """per_frame: None is (index / 2) % 3, so that some frames have none."""
    counts = [stamp.index // 2 % 3 if per_frame is None else per_frame for stamp in stamps]
    total = sum(counts)
    rank = np.concatenate([np.arange(count) for count in counts]) if total else np.zeros(0)
    frame_index = np.repeat(np.array([stamp.index for stamp in stamps], np.int32), counts)
    return Candidates(
        frame_index=frame_index,
        pts_ms=np.repeat(np.array([stamp.pts_ms for stamp in stamps], np.float64), counts),
        class_ids=(frame_index % 2).astype(np.int16),
        confidence=(0.9 - 0.1 * rank).astype(np.float32),
        boxes_xyxy=np.stack([frame_index + rank, frame_index, frame_index + 10.5, frame_index + 20], axis=1).astype(
            np.float32
        ),
    )


def assert_equal(found: Candidates, expected: Candidates) -> None:
    """Bit by bit, dtypes included."""
    for name in ("frame_index", "pts_ms", "class_ids", "confidence", "boxes_xyxy"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)
