"""What storage costs: `python -m benchmarks.storage [folder] [url]`, in a folder of its own, on SQLite or on `url`.

url: of an empty PostgreSQL database, for example postgresql+psycopg://postgres@127.0.0.1/empty.

Prints medians and 95th percentiles of a call's wall time, and the median CPU time of all threads, in milliseconds. The
run is 100,000 frames of 30 candidates in segments of 64.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.long_run import (
    CARD,
    FRAMES,
    HEADER,
    PAGE_DISTANCE,
    PAGE_FRAMES,
    PER_FRAME,
    REPORT,
    plans_of,
    result_of,
)
from orchestrator.core.records import Job, Video
from orchestrator.core.types import Candidates, JobSpec, ModelVersion, RunSpec, Sampling
from orchestrator.settings import StorageSettings
from orchestrator.storage.stores import Stores, open_stores

SEGMENT_FRAMES: Final = 64
POLLS: Final = 300
LEASE: Final = timedelta(seconds=60)
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Times:
    """Wall and CPU times by what took them."""

    wall_s: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        started_s, cpu_started_s = time.perf_counter(), time.process_time()
        yield
        self.wall_s.setdefault(what, []).append(time.perf_counter() - started_s)
        self.cpu_s.setdefault(what, []).append(time.process_time() - cpu_started_s)

    def lines(self) -> Iterator[str]:
        yield f"{'milliseconds a call':34} {'median':>9} {'p95':>9} {'CPU':>9} {'n':>6}"
        for what, wall_s in self.wall_s.items():
            median_ms, late_ms = 1000 * np.percentile(wall_s, [50, 95])
            cpu_ms = 1000 * float(np.median(self.cpu_s[what]))
            yield f"{what:34} {median_ms:9.2f} {late_ms:9.2f} {cpu_ms:9.2f} {len(wall_s):6}"


async def poll(stores: Stores, times: Times) -> None:
    """What the background asks at least once a second, with nothing to do."""
    for _ in range(POLLS):
        with times.of("idle round of all polling queries"):
            await stores.jobs.settle_cancelled(now=NOW)
            await stores.jobs.expire(now=NOW)
            await stores.jobs.admit(max_running=20, now=NOW)
            await stores.runs.to_plan()
            await stores.runs.to_finalize()
            await stores.videos.pending_index()
            await stores.runs.lease_next(after=None, now=NOW, until=NOW + LEASE)


async def look(stores: Stores, times: Times, job: Job) -> None:
    """What an answer to `GET /v1/jobs/{id}` reads."""
    for _ in range(POLLS):
        with times.of("job, run and video of an answer"):
            await stores.jobs.get(job.id)
            await stores.runs.get(job.run_id)
            await stores.videos.get(job.video_id)
        with times.of("jobs by state"):
            await stores.jobs.counts()


async def submit(stores: Stores, times: Times) -> Job:
    video = Video(id="vid_1", owner="", sha256="a" * 64, size_bytes=1, file_name="a.mp4", header=HEADER, created_at=NOW)
    await stores.videos.add(video)
    await stores.videos.set_indexed(video.id, REPORT)
    await poll(stores, times)
    for every_nth in range(2, 52):
        spec = JobSpec(run=RunSpec("a" * 64, ModelVersion("cars", 1, CARD.digest), Sampling(every_nth=every_nth)))
        with times.of("submit a job (new run)"):
            await stores.jobs.submit(spec, card=CARD, video_id=video.id, owner="", now=NOW)
    spec = JobSpec(run=RunSpec("a" * 64, ModelVersion("cars", 1, CARD.digest), Sampling()), priority=100)
    job, _ = await stores.jobs.submit(spec, card=CARD, video_id=video.id, owner="", now=NOW)
    await stores.jobs.admit(max_running=20, now=NOW)
    return job


async def work(stores: Stores, times: Times, job: Job) -> None:
    """Lease and commit every segment, as one worker does, with somebody who follows the job's events."""
    rng = np.random.default_rng(0)
    after = None
    last_id = await stores.events.last_id()
    while True:
        with times.of("lease a segment"):
            leased = await stores.runs.lease_next(after=after, now=NOW, until=NOW + LEASE)
        if leased is None:
            return
        after = leased.run.id, leased.plan.number
        with times.of("is a run wanted"):
            await stores.runs.is_wanted(leased.run.id)
        with times.of("renew a lease"):
            await stores.runs.renew(leased.lease, until=NOW + LEASE)
        result = result_of(leased.plan, rng)
        with times.of(f"commit a part of {SEGMENT_FRAMES} x {PER_FRAME}"):
            await stores.parts.commit(leased.lease, result, now=NOW)
        with times.of("events after the last one told"):
            [event] = await stores.events.after(job, last_id=last_id, limit=100)
        last_id = event.id


async def read_pages(pages: AsyncIterator[AsyncIterator[Candidates]], times: Times, what: str) -> None:
    async for page in pages:
        with times.of(what):
            found = Candidates.concatenate([piece async for piece in page])
        assert len(found) == PAGE_FRAMES * PER_FRAME


async def measure(stores: Stores, times: Times) -> None:
    job = await submit(stores, times)
    plans = plans_of(SEGMENT_FRAMES)
    with times.of(f"open a run of {len(plans)} segments"):
        await stores.runs.open(job.run_id, plans=plans, skipped=0, warnings=(), notes=())
    await look(stores, times, job)
    await work(stores, times, job)

    async def pages(store: object) -> AsyncIterator[AsyncIterator[Candidates]]:
        for first in range(PAGE_FRAMES // 2, FRAMES - PAGE_FRAMES, PAGE_DISTANCE):
            yield store.read(job.run_id, first_frame=first, last_frame=first + PAGE_FRAMES - 1)  # type: ignore[attr-defined]

    await read_pages(pages(stores.parts), times, f"page of {PAGE_FRAMES} frames, parts")
    await stores.runs.to_finalize()
    with times.of("archive the run"):
        await stores.archive.write(job.run_id, stores.parts.read(job.run_id, first_frame=0, last_frame=None))
    with times.of("succeed and delete the parts"):
        await stores.runs.succeed(job.run_id, now=NOW)
    await read_pages(pages(stores.archive), times, f"page of {PAGE_FRAMES} frames, archive")
    with times.of("all events of the job"):
        await stores.events.after(job, last_id=0, limit=10_000)


def sizes(folder: Path) -> Iterator[str]:
    for name in ("candidates.parquet", "trireel.db"):
        stored_bytes = sum(path.stat().st_size for path in folder.rglob(name))
        yield f"{name:34} {stored_bytes / 1e6:9.1f} MB"


async def main(folder: Path, database_url: str | None) -> None:
    times = Times()
    settings = StorageSettings(
        database_url=database_url or f"sqlite:///{folder}/trireel.db", data_dir=folder, max_upload_bytes=2**40
    )
    with times.of("open all stores, first time"):
        async with open_stores(settings):
            pass
    async with open_stores(settings) as stores:
        await measure(stores, times)
        async with stores.files.receive() as incoming:
            chunk = bytes(64 * 1024)
            for _ in range(2000):
                with times.of("write 64 KiB of an upload"):
                    await incoming.write(chunk)
    sys.stdout.write("\n".join([*times.lines(), *sizes(folder)]) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as own_folder:
        asyncio.run(main(Path(own_folder), sys.argv[2] if len(sys.argv) > 2 else None))
