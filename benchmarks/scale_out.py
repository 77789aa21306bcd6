"""What a second worker is worth: a long clip by one pair of worker and Triton, and by two, each pair on a core."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.lab import Bench, Lab, MeasurementError, open_stack
from benchmarks.table import Row, at_most
from orchestrator.client import SubmitJob
from tests.support.postgres import open_postgres
from tests.support.programs import LOOPBACK, free_ports, running
from tests.support.redis import open_redis
from tests.support.stack import is_answered

# Five minutes of the real clip, whose rate is 12.5 frames/s.
CLIP_FRAMES: Final = 3750
EVERY_NTH: Final = 5
WORKERS: Final = 2
# Each is a minute and a half, and its figure is wall time, of which noise takes little in so long.
MOST_PAIRS: Final = 2
START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """settings: of every program, without TRIREEL_. cores: one for each worker."""

    bench: Bench
    lab: Lab
    folder: Path
    settings: dict[str, str]
    cores: tuple[int, ...]

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """So many, each with an embedded Triton of its own, alone on its core; they have nothing to do yet."""
        with ExitStack() as stack:
            for number in range(count):
                stack.enter_context(self._worker(number))
            self._warm_up(count)
            yield

    @contextmanager
    def _worker(self, number: int) -> Iterator[None]:
        folder = self.folder / f"worker-{number}"
        folder.mkdir(exist_ok=True)
        (port,) = free_ports(1)
        environment = {**os.environ, **self.settings, "TRIREEL_METRICS_PORT": str(port)}
        command = ["taskset", "--cpu-list", str(self.cores[number]), sys.executable, "-m", "orchestrator", "worker"]
        with running(command, folder=folder, env=environment) as program:
            url = f"http://{LOOPBACK}:{port}/metrics"
            program.wait_until(lambda: is_answered(url), timeout_s=START_TIMEOUT_S, what="started")
            yield

    def _warm_up(self, count: int) -> None:
        """Short jobs until every worker has taken part: its Triton is loaded then, and its models are warm."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self.bench.client.readiness().reasons:
            if time.monotonic() > deadline_s:
                raise MeasurementError("no worker came")
            time.sleep(0.1)
        for _ in range(2 * count):
            self.bench.run(SubmitJob(video_id=self.bench.upload(self.lab.clip(100)).id, model=self.bench.model))

    def job_wall_s(self, clip: Path) -> float:
        """From submit to done."""
        video = self.bench.upload(clip)
        began_s = time.perf_counter()
        self.bench.run(SubmitJob(video_id=video.id, model=self.bench.model, every_nth=EVERY_NTH))
        return time.perf_counter() - began_s


def scale_out(lab: Lab) -> list[Row]:
    """The time that two workers need / the time that one needs, for five minutes of video, every fifth frame."""
    ratios, alone_s, together_s = [], [], []
    with open_cluster(lab) as cluster:
        for _ in range(min(lab.pairs, MOST_PAIRS)):
            with cluster.workers(1):
                alone_s.append(cluster.job_wall_s(lab.clip(CLIP_FRAMES)))
            with cluster.workers(WORKERS):
                together_s.append(cluster.job_wall_s(lab.clip(CLIP_FRAMES)))
            ratios.append(together_s[-1] / alone_s[-1])
    return [
        Row(
            name="scale_out",
            value=statistics.median(ratios),
            target=at_most(0.6),
            spread=(min(ratios), max(ratios)),
            beside={"one worker s": statistics.median(alone_s), "two workers s": statistics.median(together_s)},
        )
    ]


@contextmanager
def open_cluster(lab: Lab) -> Iterator[Cluster]:
    """An API that leaves the work to workers, on a PostgreSQL and a Redis of its own. Raises MeasurementError."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < WORKERS:
        raise MeasurementError(f"scale_out needs {WORKERS} cores, and there are {len(cores)}")
    folder = lab.new_data_dir()
    with open_postgres() as postgres, open_redis() as redis:
        urls = {"DATABASE_URL": postgres.url(), "REDIS_URL": redis.url()}
        with open_stack(lab, folder, **urls) as bench:
            settings = {
                "TRIREEL_HOST": LOOPBACK,
                "TRIREEL_DATA_DIR": str(folder.absolute()),
                "TRIREEL_MODEL_REPOSITORY": str(lab.repository),
                "TRIREEL_DEVICE": lab.device,
                **{f"TRIREEL_{name}": value for name, value in urls.items()},
            }
            yield Cluster(bench, lab, folder, settings, tuple(cores[:WORKERS]))
