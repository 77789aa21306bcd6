"""Segments a second that several processes lease and commit: `python -m benchmarks.writers URL [processes ...]`.

URL: of an empty PostgreSQL database, for example postgresql+psycopg://postgres@127.0.0.1/empty, on this machine.

Each process is one worker that leases the fairest segment and commits 64 frames of 30 candidates, again and again, as
fast as it can: nobody decodes or infers. Prints for each number of processes how many segments a second were committed,
what a lease and a commit took (wall time, median and 95th percentile), and the CPU time that a segment took of the
workers and of PostgreSQL. Figures with one run are beside those with twenty, since writers of one run meet at its row.

BENCH_ROUND_TRIP_MS=1 lets every request to the database take so much longer, as if it were on another machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from sqlalchemy import Engine, create_engine, event, text

from benchmarks.long_queue import add_video
from benchmarks.long_run import CARD, result_of
from benchmarks.processes import cpu_s
from orchestrator.core.records import Video
from orchestrator.core.types import JobSpec, ModelVersion, RunSpec, Sampling, SegmentPlan
from orchestrator.settings import StorageSettings
from orchestrator.storage.reconcile import recover
from orchestrator.storage.stores import Stores, open_stores
from orchestrator.telemetry import configure_logging

PROCESSES: Final = (1, 2, 4, 8)
RUNS: Final = (20, 1)
SEGMENTS: Final = 20_000
SEGMENT_FRAMES: Final = 64
MEASURE_S: Final = 5.0
LEASE: Final = timedelta(minutes=10)
ROUND_TRIP_MS: Final = "BENCH_ROUND_TRIP_MS"
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Worked:
    """What one process did."""

    segments: int
    cpu_s: float
    lease_s: list[float]
    commit_s: list[float]


def settings_of(folder: Path, database_url: str) -> StorageSettings:
    return StorageSettings(database_url=database_url, data_dir=folder, max_upload_bytes=2**40)


async def fill(settings: StorageSettings, *, runs: int) -> list[str]:
    """RUNNING jobs of so many runs with segments enough for everybody; the jobs' ids."""
    async with open_stores(settings) as stores:
        await recover(stores)
        video = await add_video(stores, runs)
        plans = [
            SegmentPlan(number, SEGMENT_FRAMES * number, SEGMENT_FRAMES * (number + 1) - 1, None)
            for number in range(SEGMENTS // runs)
        ]
        return [await open_run(stores, video, plans, every_nth=number + 1) for number in range(runs)]


async def open_run(stores: Stores, video: Video, plans: list[SegmentPlan], *, every_nth: int) -> str:
    run = RunSpec(video.sha256, ModelVersion("cars", 1, CARD.digest), Sampling(every_nth=every_nth))
    job, _ = await stores.jobs.submit(JobSpec(run=run), card=CARD, video_id=video.id, owner="", now=NOW)
    await stores.jobs.admit(max_running=10_000, now=NOW)
    await stores.runs.open(job.run_id, plans=plans, skipped=0, warnings=(), notes=())
    return job.id


def lengthen_round_trips(seconds: float) -> None:
    """Of every statement, BEGIN and COMMIT of this process: its database threads wait as they would for a network."""

    def wait(*_: object) -> None:
        time.sleep(seconds)

    for name in ("begin", "before_cursor_execute", "commit"):
        event.listen(Engine, name, wait)


async def work(settings: StorageSettings) -> Worked:
    """Lease and commit for `MEASURE_S`, from the moment on at which the parent says so."""
    async with open_stores(settings) as stores:
        await recover(stores)
        result = result_of(SegmentPlan(0, 0, SEGMENT_FRAMES - 1, None), np.random.default_rng(0))
        after, lease_s, commit_s = None, [], []
        say("ready")
        sys.stdin.readline()
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        while time.perf_counter() - began_s < MEASURE_S:
            asked_s = time.perf_counter()
            leased = await stores.runs.lease_next(after=after, now=NOW, until=NOW + LEASE)
            assert leased is not None
            leased_s = time.perf_counter()
            await stores.parts.commit(leased.lease, result, now=NOW)
            committed_s = time.perf_counter()
            after = leased.run.id, leased.plan.number
            lease_s.append(leased_s - asked_s)
            commit_s.append(committed_s - leased_s)
        return Worked(len(lease_s), time.process_time() - cpu_began_s, lease_s, commit_s)


def say(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def server_pid(database_url: str) -> int:
    """Of the PostgreSQL whose processes serve the connections."""
    with create_engine(database_url).connect() as connection:
        backend: int = connection.scalar(text("SELECT pg_backend_pid()"))
        return psutil.Process(backend).ppid()


def measure(folder: Path, database_url: str, *, processes: int) -> tuple[list[Worked], float]:
    """What each worker did, and the CPU-seconds of PostgreSQL meanwhile."""
    server = server_pid(database_url)
    command = [sys.executable, "-m", "benchmarks.writers", "work", str(folder), database_url]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    server_began_s = cpu_s(server)
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    lines = [worker.stdout.readline() for worker in workers if worker.stdout is not None]
    server_cpu_s = cpu_s(server) - server_began_s
    for worker in workers:
        worker.communicate()
    return [Worked(**json.loads(line)) for line in lines], server_cpu_s


def line_of(runs: int, processes: int, worked: list[Worked], server_cpu_s: float) -> str:
    segments = sum(each.segments for each in worked)
    leases = np.percentile([1000 * s for each in worked for s in each.lease_s], [50, 95])
    commits = np.percentile([1000 * s for each in worked for s in each.commit_s], [50, 95])
    worker_ms = 1000 * sum(each.cpu_s for each in worked) / segments
    return (
        f"{runs:4} {processes:9} {segments / MEASURE_S:10.0f} {leases[0]:8.2f} {leases[1]:8.2f} {commits[0]:8.2f}"
        f" {commits[1]:8.2f} {worker_ms:11.2f} {1000 * server_cpu_s / segments:12.2f}"
    )


def main(folder: Path, database_url: str, counts: tuple[int, ...]) -> None:
    sys.stdout.write("runs processes segments/s  lease ms  p95  commit ms  p95  worker CPU ms  server CPU ms\n")
    for runs in RUNS:
        settings = settings_of(folder, database_url)
        jobs = asyncio.run(fill(settings, runs=runs))
        for processes in counts:
            worked, server_cpu_s = measure(folder, database_url, processes=processes)
            sys.stdout.write(line_of(runs, processes, worked, server_cpu_s) + "\n")
            sys.stdout.flush()
        asyncio.run(forget(settings, jobs))


async def forget(settings: StorageSettings, jobs: list[str]) -> None:
    async with open_stores(settings) as stores:
        await recover(stores)
        for job_id in jobs:
            await stores.jobs.remove(job_id)


if __name__ == "__main__":
    configure_logging("text", "error")
    if sys.argv[1] == "work":
        lengthen_round_trips(float(os.environ.get(ROUND_TRIP_MS, "0")) / 1000)
        say(asdict(asyncio.run(work(settings_of(Path(sys.argv[2]), sys.argv[3])))))
    else:
        with tempfile.TemporaryDirectory() as own_folder:
            main(Path(own_folder), sys.argv[1], tuple(map(int, sys.argv[2:])) or PROCESSES)
