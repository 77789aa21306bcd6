"""Questions asked of a long finished run over REST: 100,000 frames of 30 candidates."""

from __future__ import annotations

import asyncio
import io
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.lab import Lab
from benchmarks.storage import drifting_boxes
from benchmarks.table import Row, at_most
from orchestrator.cli.embedded_stack import embedded_stack
from orchestrator.client import Client, FrameRange, ViewQuery
from orchestrator.core.contract import ModelCard
from orchestrator.core.records import Job, SegmentReport, SegmentResult, Video
from orchestrator.core.types import (
    FrameIndex,
    FrameStamp,
    IndexReport,
    JobSpec,
    ModelVersion,
    RunSpec,
    Sampling,
    SegmentPlan,
    StageSeconds,
    VideoHeader,
)
from orchestrator.settings import load_settings
from orchestrator.storage.stores import Stores, open_stores

FRAMES: Final = 100_000
PAGE_FRAMES: Final = 1000
# Larger than a server makes them, so that the run is made quickly; once finalized nothing is left of them.
SEGMENT_FRAMES: Final = 2000
FPS: Final = 25
FRAME_MS: Final = 1000 / FPS
PAGES: Final = 20
TIMELINES: Final = 7
BUCKET_S: Final = 1.0
LEASE: Final = timedelta(minutes=10)
CARD: Final = ModelCard(
    class_names=tuple(f"class {number}" for number in range(80)),
    stride=32,
    imgsz=640,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest="d" * 64,
    weights_sha256="e" * 64,
    certificate="passed",
)
HEADER: Final = VideoHeader(
    container="mp4",
    codec="h264",
    width_px=768,
    height_px=432,
    rotation_deg=0,
    is_mirrored=False,
    duration_s_hint=None,
    fps_hint=None,
)


def view(lab: Lab) -> list[Row]:
    """A page as JSON and the whole timeline, each time at a confidence that was not asked before, to the last byte.

    The run is written into the stores of a server that is started afterwards; what the server and the client do on
    first use is not measured.
    """
    data_dir = lab.scratch / f"data{time.monotonic_ns()}"
    job = asyncio.run(make_run(data_dir))
    with (
        embedded_stack(data_dir, {"TRIREEL_MODEL_REPOSITORY": str(lab.repository)}) as stack,
        Client(stack.url) as client,
    ):
        pages_ms = times_ms(lambda number: page_bytes(client, job.id, number), PAGES)
        timelines_ms = times_ms(lambda number: timeline_buckets(client, job.id, number), TIMELINES)
        size_bytes, buckets = page_bytes(client, job.id, 0), timeline_buckets(client, job.id, 0)
    return [
        row_of_ms("view.page", pages_ms, 50, {"MB": size_bytes / 1e6}),
        row_of_ms("view.timeline", timelines_ms, 500, {"buckets": buckets}),
    ]


def times_ms(ask: Callable[[int], int], count: int) -> list[float]:
    """Of asking for number 1 to `count`; number 0 comes first and is not measured."""
    ask(0)
    times = []
    for number in range(1, count + 1):
        began_s = time.perf_counter()
        ask(number)
        times.append(1000 * (time.perf_counter() - began_s))
    return times


def page_bytes(client: Client, job_id: str, number: int) -> int:
    """Pages lie all over the video, and begin in the middle of what is stored together."""
    first = (4777 * number + PAGE_FRAMES // 2) % (FRAMES - PAGE_FRAMES)
    frames = FrameRange(first, first + PAGE_FRAMES - 1)
    return client.detections(job_id, io.BytesIO(), file_format="json", view=view_number(number), frames=frames)


def timeline_buckets(client: Client, job_id: str, number: int) -> int:
    return len(client.timeline(job_id, bucket_s=BUCKET_S, view=view_number(number)).buckets)


def view_number(number: int) -> ViewQuery:
    """Confidences around a half, so that about every other candidate is a detection."""
    return ViewQuery(conf=round(0.45 + 0.005 * number, 3))


def row_of_ms(name: str, times: list[float], target_ms: float, beside: dict[str, object]) -> Row:
    return Row(
        name=name,
        value=statistics.median(times),
        target=at_most(target_ms),
        unit="ms",
        spread=(min(times), max(times)),
        beside=beside,
    )


async def make_run(data_dir: Path) -> Job:
    """A finalized run and its job, as a server would have left them."""
    settings = load_settings({"TRIREEL_DATA_DIR": str(data_dir)})
    async with open_stores(settings.storage) as stores:
        video = await add_video(stores)
        spec = JobSpec(run=RunSpec(video.sha256, ModelVersion("cars", 1, CARD.digest), Sampling()))
        job, _ = await stores.jobs.submit(spec, card=CARD, video_id=video.id, owner="", now=now())
        await stores.jobs.admit(max_running=1, now=now())
        plans = [
            SegmentPlan(number, first, min(first + SEGMENT_FRAMES, FRAMES) - 1, None)
            for number, first in enumerate(range(0, FRAMES, SEGMENT_FRAMES))
        ]
        await stores.runs.open(job.run_id, plans=plans, skipped=0, warnings=(), notes=())
        await commit_all(stores)
        await stores.runs.to_finalize()
        await stores.archive.write(job.run_id, stores.parts.read(job.run_id, first_frame=0, last_frame=None))
        await stores.runs.succeed(job.run_id, now=now())
    return job


async def add_video(stores: Stores) -> Video:
    """A video of which only the index is real."""
    async with stores.files.receive() as incoming:
        await incoming.write(b"no video")
        sha256 = await incoming.keep()
    video = Video(
        id=incoming.video_id,
        owner="",
        sha256=sha256,
        size_bytes=incoming.size_bytes,
        file_name="long.mp4",
        header=HEADER,
        created_at=now(),
    )
    await stores.videos.add(video)
    index = FrameIndex(np.arange(FRAMES, dtype=np.int64), np.arange(FRAMES) % FPS == 0, Fraction(1, FPS))
    await stores.files.save_index(video.id, index)
    report = IndexReport(frame_count=FRAMES, duration_s=FRAMES / FPS, fps=FPS, is_vfr=False)
    await stores.videos.set_indexed(video.id, report)
    return video


async def commit_all(stores: Stores) -> None:
    rng = np.random.default_rng(0)
    while (leased := await stores.runs.lease_next(after=None, now=now(), until=now() + LEASE)) is not None:
        frames = range(leased.plan.first_sample, leased.plan.last_sample + 1)
        result = SegmentResult(
            candidates=drifting_boxes(frames, rng),
            stamps=tuple(FrameStamp(frame, FRAME_MS * frame) for frame in frames),
            report=SegmentReport(),
            seconds=StageSeconds(),
        )
        await stores.parts.commit(leased.lease, result, now=now())


def now() -> datetime:
    return datetime.now(UTC)
