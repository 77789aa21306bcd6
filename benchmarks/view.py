"""Questions asked of a long finished run over REST: 100,000 frames of 30 candidates."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.lab import Lab, open_stack
from benchmarks.long_run import CARD, FPS, FRAMES, HEADER, PAGE_DISTANCE, PAGE_FRAMES, REPORT, plans_of, result_of
from benchmarks.table import Row, at_most, row_of_medians
from orchestrator.client import Client, FrameRange, ViewQuery
from orchestrator.core.records import Job, Video
from orchestrator.core.types import FrameIndex, JobSpec, ModelVersion, RunSpec, Sampling
from orchestrator.settings import load_settings
from orchestrator.storage.stores import Stores, open_stores

# Larger than a server makes them, so that the run is made quickly; once finalized nothing is left of them.
SEGMENT_FRAMES: Final = 2000
PAGES: Final = 20
TIMELINES: Final = 7
BUCKET_S: Final = 1.0
LEASE: Final = timedelta(minutes=10)


def view(lab: Lab) -> list[Row]:
    """A page as JSON and the whole timeline, each time at a confidence that was not asked before, to the last byte.

    The run is written into the stores of a server that is started afterwards; what the server and the client do on
    first use is not measured.
    """
    data_dir = lab.new_data_dir()
    job = asyncio.run(make_run(data_dir))
    with open_stack(lab, data_dir) as bench:
        client = bench.client
        pages_ms = times_ms(lambda number: page_bytes(client, job.id, number), PAGES)
        timelines_ms = times_ms(lambda number: timeline_buckets(client, job.id, number), TIMELINES)
        size_bytes, buckets = page_bytes(client, job.id, 0), timeline_buckets(client, job.id, 0)
    return [
        row_of_medians("view.page", pages_ms, at_most(50), unit="ms", beside={"MB": size_bytes / 1e6}),
        row_of_medians("view.timeline", timelines_ms, at_most(500), unit="ms", beside={"buckets": buckets}),
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
    first = (PAGE_DISTANCE * number + PAGE_FRAMES // 2) % (FRAMES - PAGE_FRAMES)
    frames = FrameRange(first, first + PAGE_FRAMES - 1)
    return client.detections(job_id, io.BytesIO(), file_format="json", view=view_number(number), frames=frames)


def timeline_buckets(client: Client, job_id: str, number: int) -> int:
    return len(client.timeline(job_id, bucket_s=BUCKET_S, view=view_number(number)).buckets)


def view_number(number: int) -> ViewQuery:
    """Confidences around a half, so that about every other candidate is a detection."""
    return ViewQuery(conf=round(0.45 + 0.005 * number, 3))


async def make_run(data_dir: Path) -> Job:
    """A finalized run and its job, as a server would have left them."""
    settings = load_settings({"TRIREEL_DATA_DIR": str(data_dir)})
    async with open_stores(settings.storage) as stores:
        video = await add_video(stores)
        spec = JobSpec(run=RunSpec(video.sha256, ModelVersion("cars", 1, CARD.digest), Sampling()))
        job, _ = await stores.jobs.submit(spec, card=CARD, video_id=video.id, owner="", now=now())
        await stores.jobs.admit(max_running=1, now=now())
        await stores.runs.open(job.run_id, plans=plans_of(SEGMENT_FRAMES), skipped=0, warnings=(), notes=())
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
    await stores.videos.set_indexed(video.id, REPORT)
    return video


async def commit_all(stores: Stores) -> None:
    rng = np.random.default_rng(0)
    while (leased := await stores.runs.lease_next(after=None, now=now(), until=now() + LEASE)) is not None:
        await stores.parts.commit(leased.lease, result_of(leased.plan, rng), now=now())


def now() -> datetime:
    return datetime.now(UTC)
