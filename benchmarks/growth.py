"""What grows with workers, segments and time: `python -m benchmarks.growth`, the figures of docs/scaling.md.

A cluster of one API, workers, one Triton, a PostgreSQL and a Redis, on the demo model and clip: what it is asked to do
is small, so that what is around the work shows. Prints what a segment, and what an idle second, costs the database and
Redis, and what a worker's memory is. Figures are of this machine; rates are the design's, and hold anywhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from benchmarks.footprint import own_bytes
from benchmarks.processes import cpu_s
from orchestrator.client import Client, SubmitJob
from tests.support.needs import ROOT
from tests.support.postgres import PostgresServer, open_postgres
from tests.support.redis import RedisServer, open_redis
from tests.support.stack import RunningWorker, Stack, serving, working

CLIP: Final = ROOT / "export" / "demo" / "clip.mp4"
MODEL: Final = "demo_shapes"
REPOSITORY: Final = ROOT / "model_repository"
SEGMENT_FRAMES: Final = 10
WORKER_COUNTS: Final = (1, 2, 4)
IDLE_S: Final = 20.0
JOBS: Final = 4
MB: Final = 10**6


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters since the start of the services. transactions: committed. cpu_s: of all of PostgreSQL's processes."""

    at_s: float
    transactions: int
    wal_bytes: int
    database_cpu_s: float
    redis_commands: int
    redis_bytes: int
    redis_cpu_s: float


@dataclass(frozen=True, slots=True)
class Services:
    postgres: PostgresServer
    redis: RedisServer

    def read(self) -> Reading:
        # What backends did shows once they have been idle for a moment, or a second later.
        ((transactions,),) = self.postgres.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = 'trireel'", database="postgres"
        )
        ((wal_bytes,),) = self.postgres.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint", database="postgres"
        )
        with self.redis.client() as client:
            redis = client.info()
        redis_times = psutil.Process(self.redis.pid).cpu_times()
        postmaster = int((self.postgres.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        return Reading(
            at_s=time.monotonic(),
            transactions=transactions,
            wal_bytes=wal_bytes,
            database_cpu_s=cpu_s(postmaster),
            redis_commands=int(redis["total_commands_processed"]),
            redis_bytes=int(redis["total_net_input_bytes"]) + int(redis["total_net_output_bytes"]),
            redis_cpu_s=redis_times.user + redis_times.system,
        )


def main() -> None:
    with TemporaryDirectory(prefix="trireel-growth-") as name, open_postgres() as postgres, open_redis() as redis:
        folder, services = Path(name), Services(postgres, redis)
        urls = {
            "DATABASE_URL": postgres.url(),
            "REDIS_URL": redis.url(),
            "SEGMENT_FRAMES": str(SEGMENT_FRAMES),
        }
        with serving(folder / "api", model_repository=REPOSITORY, **urls) as stack:
            print_line("API without work, MB", own_bytes(stack.program.process.pid) / MB)
            for count in WORKER_COUNTS:
                with workers_of(stack, folder / f"of-{count}", count, urls) as workers:
                    idle_second(services, count)
                    busy_segment(services, stack.client, count)
                    sizes = [own_bytes(worker.program.process.pid) / MB for worker in workers]
                    print_line(f"{count} workers: memory of the largest, after work, MB", max(sizes))
        print_line("the database after all jobs, MB", database_mb(postgres))


@contextmanager
def workers_of(stack: Stack, folder: Path, count: int, urls: dict[str, str]) -> Iterator[list[RunningWorker]]:
    """So many workers with a decoder each, on the API's Triton, that have settled."""
    triton_url = stack.client.readiness().triton_url
    with ExitStack() as opened:
        workers = [
            opened.enter_context(
                working(
                    folder / str(number),
                    data_dir=stack.data_dir,
                    model_repository=REPOSITORY,
                    DECODERS="1",
                    TRITON_URL=triton_url,
                    **urls,
                )
            )
            for number in range(count)
        ]
        run_jobs(stack.client, 1)
        yield workers


def idle_second(services: Services, count: int) -> None:
    before = services.read()
    time.sleep(IDLE_S)
    after = services.read()
    for what, amount in spent(before, after).items():
        print_line(f"{count} workers, idle: {what} a second", amount / (after.at_s - before.at_s))


def busy_segment(services: Services, client: Client, count: int) -> None:
    before = services.read()
    segments = run_jobs(client, JOBS)
    # Backends report what they did within a second of becoming idle.
    time.sleep(1.5)
    after = services.read()
    print_line(f"{count} workers: segments a second", segments / (after.at_s - before.at_s - 1.5))
    for what, amount in spent(before, after).items():
        print_line(f"{count} workers: {what} a segment", amount / segments)


def spent(before: Reading, after: Reading) -> dict[str, float]:
    return {
        "transactions": after.transactions - before.transactions,
        "database CPU ms": 1000 * (after.database_cpu_s - before.database_cpu_s),
        "log KB": (after.wal_bytes - before.wal_bytes) / 1000,
        "Redis commands": after.redis_commands - before.redis_commands,
        "Redis KB": (after.redis_bytes - before.redis_bytes) / 1000,
        "Redis CPU ms": 1000 * (after.redis_cpu_s - before.redis_cpu_s),
    }


def run_jobs(client: Client, count: int) -> int:
    """Jobs on the clip, at once; how many segments they had. Deletes them, so that each is inferred anew."""
    video = client.upload(CLIP)
    jobs = [client.submit(SubmitJob(video_id=video.id, model=MODEL, start_s=0.04 * number)) for number in range(count)]
    segments = 0
    for job in jobs:
        segments += sum(event.kind == "segment" for event in client.follow(job.id))
        assert client.job(job.id).state == "succeeded"
    for job in jobs:
        client.delete(job.id)
    return segments


def database_mb(postgres: PostgresServer) -> float:
    ((size,),) = postgres.execute("SELECT pg_database_size('trireel')")
    return float(size) / MB


def print_line(what: str, value: float) -> None:
    sys.stdout.write(f"{what:60} {value:12.3g}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
