"""What 10,000 queued jobs cost: `python -m benchmarks.long_queue [folder] [url]`, on SQLite or on `url`.

url: of an empty PostgreSQL database, for example postgresql+psycopg://postgres@127.0.0.1/empty.

Prints how long a server takes to start with them, as far as storage goes (tables, recovery, admission and plans), and
medians and 95th percentiles of the calls that meet them, pages of 100 jobs over the API among them. The server is a
process of its own on the real stores; nobody works on its segments.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.long_run import CARD, FPS, HEADER, REPORT
from benchmarks.storage import Times
from orchestrator.bootstrap import Services
from orchestrator.composition import Parts, Tuning, UseCases
from orchestrator.core.records import Video
from orchestrator.core.states import JobState
from orchestrator.core.types import FrameIndex, JobSpec, ModelVersion, RunSpec, Sampling
from orchestrator.events.memory import MemoryEventBus
from orchestrator.scheduling.local import Bell
from orchestrator.settings import Settings, load_settings
from orchestrator.storage.reconcile import recover
from orchestrator.storage.stores import Stores, open_stores
from orchestrator.telemetry import Metrics, configure_logging
from orchestrator.testing.fake_model import FakeModel, FakeModelCatalogue
from orchestrator.testing.fake_reader import FakeSlots, FakeVideoReader, GeneratedVideo
from orchestrator.web.server import serve

JOBS: Final = 10_000
VIDEOS: Final = 200
FRAMES: Final = 10_000
MAX_RUNNING: Final = 20
PAGE: Final = 100
ROUNDS: Final = 40
LEASE: Final = timedelta(seconds=60)
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
LONGEST_START_S: Final = 60


def settings_of(folder: Path, database_url: str) -> Settings:
    return load_settings(
        {"TRIREEL_DATA_DIR": str(folder), "TRIREEL_DATABASE_URL": database_url, "TRIREEL_PORT": "0"}, cores=2
    )


async def fill(settings: Settings) -> None:
    """Submit all jobs, each for a run of its own; none is admitted."""
    async with open_stores(settings.storage) as stores:
        for number in range(VIDEOS):
            video = await add_video(stores, number)
            for nth in range(1, JOBS // VIDEOS + 1):
                run = RunSpec(video.sha256, ModelVersion("cars", 1, CARD.digest), Sampling(every_nth=nth))
                spec = JobSpec(run=run, priority=1 + (number * 7 + nth) % 100)
                await stores.jobs.submit(spec, card=CARD, video_id=video.id, owner="", now=NOW)


async def add_video(stores: Stores, number: int) -> Video:
    """A video of which only the index is real."""
    async with stores.files.receive() as incoming:
        await incoming.write(b"no video %d" % number)
        sha256 = await incoming.keep()
    video = Video(
        id=incoming.video_id,
        owner="",
        sha256=sha256,
        size_bytes=incoming.size_bytes,
        file_name=f"{number}.mp4",
        header=HEADER,
        created_at=NOW,
    )
    await stores.videos.add(video)
    index = FrameIndex(np.arange(FRAMES, dtype=np.int64), np.arange(FRAMES) % FPS == 0, Fraction(1, FPS))
    await stores.files.save_index(video.id, index)
    await stores.videos.set_indexed(video.id, REPORT)
    return video


def use_cases_of(stores: Stores) -> UseCases:
    """On the real stores, with nobody who decodes or infers."""
    slots = FakeSlots()
    parts = Parts(
        stores=stores,
        reader=FakeVideoReader(GeneratedVideo(), slots),
        slots=slots,
        model=FakeModel(),
        catalogue=FakeModelCatalogue(),
        bus=MemoryEventBus(),
        work=Bell(),
        metrics=Metrics(CollectorRegistry()),
        utc_now=lambda: datetime.now(UTC),
        monotonic_s=time.monotonic,
    )
    tuning = Tuning(
        segment_frames=64,
        batch_frames=4,
        window_frames=8,
        max_running_jobs=MAX_RUNNING,
        lease_s=LEASE.total_seconds(),
        wait_budget_s=3600,
    )
    return UseCases(parts, tuning)


@asynccontextmanager
async def timed_services(settings: Settings) -> AsyncIterator[Services]:
    """A server's, started as `bootstrap` starts one; says how long storage took of it."""
    began_s = time.perf_counter()
    async with open_stores(settings.storage) as stores:
        await recover(stores)
        use_cases = use_cases_of(stores)
        recovered_s = time.perf_counter()
        while await use_cases.upkeep.admit_and_plan():
            pass
        say({"open and recover": recovered_s - began_s, "admit and plan": time.perf_counter() - recovered_s})
        catalogue = FakeModelCatalogue()
        yield Services(
            settings=settings,
            metrics=Metrics(CollectorRegistry()),
            videos=use_cases.videos,
            jobs=use_cases.jobs,
            results=use_cases.results,
            following=use_cases.following,
            catalogue=catalogue,  # type: ignore[arg-type]  # asked for nothing here
            triton=catalogue,  # type: ignore[arg-type]  # likewise
            job_store=stores.jobs,
            event_store=stores.events,
        )


def say(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


@contextmanager
def serving(folder: Path, database_url: str) -> Iterator[tuple[str, dict[str, float]]]:
    """A server in a process of its own: its address, and the seconds that its start took."""
    command = [sys.executable, "-m", "benchmarks.long_queue", "serve", str(folder), database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            started = json.loads(process.stdout.readline())
            yield json.loads(process.stdout.readline()), started
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LONGEST_START_S)


def ask(url: str, times: Times) -> None:
    """Pages from the newest on, with and without a filter, and the counts that Prometheus reads."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for which in ("", "state=queued", "model=cars:1"):
            cursor: str | None = None
            for _ in range(ROUNDS):
                after = f"&cursor={cursor}" if cursor else ""
                with times.of(f"page of {PAGE} {which}"):
                    answer = client.get(f"/v1/jobs?limit={PAGE}&{which}{after}")
                answer.raise_for_status()
                assert len(answer.json()["items"]) == PAGE
                cursor = answer.json()["next_cursor"]


async def poll(settings: Settings, times: Times) -> None:
    """What goes on behind the API while 20 jobs run and the others wait."""
    async with open_stores(settings.storage) as stores:
        queue = await stores.jobs.page(limit=PAGE, cursor=None, states=[JobState.QUEUED])
        for _ in range(ROUNDS):
            with times.of("jobs by state"):
                await stores.jobs.counts()
            with times.of("to settle, to expire"):
                await stores.jobs.settle_cancelled(now=NOW)
                await stores.jobs.expire(now=NOW)
            with times.of("to admit: no room"):
                assert not await stores.jobs.admit(max_running=MAX_RUNNING, now=NOW)
            with times.of("to plan, to finalize: nothing"):
                assert not await stores.runs.to_plan()
                assert not await stores.runs.to_finalize()
            with times.of("lease a segment"):
                leased = await stores.runs.lease_next(after=None, now=NOW, until=NOW + LEASE)
            assert leased is not None
            with times.of("hand it back"):
                await stores.runs.hand_back(leased.lease)
            with times.of("to admit: room for one"):
                [admitted] = await stores.jobs.admit(max_running=MAX_RUNNING + 1, now=NOW)
            with times.of("to plan: one"):
                assert len(await stores.runs.to_plan()) >= 1
            with times.of("positions of a page"):
                await stores.jobs.queue_positions({job.id for job in queue.items})
            await stores.jobs.cancel(admitted.id, now=NOW)
            await stores.jobs.settle_cancelled(now=NOW)


def main(folder: Path, database_url: str) -> None:
    times = Times()
    settings = settings_of(folder, database_url)
    began_s = time.perf_counter()
    asyncio.run(fill(settings))
    sys.stdout.write(f"{JOBS} jobs submitted in {time.perf_counter() - began_s:.1f} s\n")
    with serving(folder, database_url) as (url, started):
        for what, seconds in started.items():
            sys.stdout.write(f"start: {what:27} {1000 * seconds:9.1f} ms\n")
        ask(url, times)
    with serving(folder, database_url) as (_, started):
        sys.stdout.write(f"start again, nothing to admit {1000 * sum(started.values()):13.1f} ms\n")
    asyncio.run(poll(settings, times))
    sys.stdout.write("\n".join(times.lines()) + "\n")


if __name__ == "__main__":
    configure_logging("text", "error")
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(settings_of(Path(sys.argv[2]), sys.argv[3]), timed_services, on_listening=say))
    else:
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as own_folder:
            main(Path(own_folder), sys.argv[2] if len(sys.argv) > 2 else f"sqlite:///{own_folder}/trireel.db")
