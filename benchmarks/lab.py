"""What every benchmark works with: the model, the clips, and a stack of its own to measure."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.clips import copy_frames, scale_frames
from benchmarks.pairs import Cost, Pairs
from benchmarks.processes import cpu_s
from orchestrator.cli.embedded_stack import EmbeddedStack, embedded_stack
from orchestrator.client import Client, JobAnswer, SubmitJob, VideoAnswer

INDEX_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.02
HD_PX: Final = (1280, 720)


class MeasurementError(Exception):
    """Something went otherwise than the benchmark assumes, so that its figure would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """model: published in `repository`, its graph at `graph`. video: real, without B-frames. scratch: for files.

    golden: what Ultralytics finds in every frame of the video, if that is at hand. export_python: of the environment
    with PyTorch; the embedded Triton's is `triton_python`. pairs: how often two things are compared. device: where the
    network runs.
    """

    repository: Path
    model: str
    graph: Path
    video: Path
    golden: Path | None = None
    scratch: Path
    triton_python: Path
    export_python: Path
    pairs: int
    device: Literal["cpu", "gpu"] = "cpu"
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def ratios(self, pairs: Pairs) -> list[float]:
        """What decides a throughput row: CPU-seconds, which neighbours hardly change, or a GPU's wall time."""
        return pairs.cpu_ratios() if self.device == "cpu" else pairs.wall_ratios()

    def new_data_dir(self) -> Path:
        """For one stack; it does not exist yet."""
        return self.scratch / f"data{next(self._numbers)}"

    def clip(self, frames: int) -> Path:
        """The first frames of the real video, unlike any clip made before."""
        number = next(self._numbers)
        return copy_frames(self.video, self.scratch / f"clip{number}.mp4", frames=frames, number=number)

    def hd_clip(self, frames: int, *, copies: int = 1) -> Path:
        """The same in 1280x720. copies: how often these frames come, one after another."""
        master = self.scratch / f"hd{frames}.mp4"
        if not master.exists():
            scale_frames(self.video, master, size_px=HD_PX, frames=frames)
        number = next(self._numbers)
        return copy_frames(master, self.scratch / f"clip{number}.mp4", frames=frames * copies, number=number)


@dataclass(frozen=True, slots=True)
class Bench:
    """A stack that nobody else uses. model: of the jobs that are measured."""

    stack: EmbeddedStack
    client: Client
    model: str

    def upload(self, clip: Path) -> VideoAnswer:
        """Upload a clip and wait until it is indexed, which is no part of any job."""
        video = self.client.upload(clip)
        deadline_s = time.monotonic() + INDEX_TIMEOUT_S
        while video.index_state == "pending" and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
            video = self.client.video(video.id)
        if video.index_state != "ready":
            raise MeasurementError(f"the clip's index is {video.index_state}")
        return video

    def run(self, job: SubmitJob) -> JobAnswer:
        """Submit and follow to the end. Raises MeasurementError unless every planned frame was inferred."""
        submitted = self.client.submit(job)
        for _ in self.client.follow(submitted.id):
            pass
        ended = self.client.job(submitted.id)
        if ended.state != "succeeded" or ended.ledger.inferred != ended.ledger.planned:
            raise MeasurementError(f"the job ended {ended.state} with {ended.ledger}")
        return ended

    def job_cost(self, clip: Path, *, every_nth: int = 1) -> Cost:
        """Of one job on a clip that was not inferred before, from submit to done; frames: sampled ones."""
        video = self.upload(clip)
        cpu_began_s, began_s = cpu_s(self.stack.pid), time.perf_counter()
        job = self.run(SubmitJob(video_id=video.id, model=self.model, every_nth=every_nth))
        wall_s = time.perf_counter() - began_s
        return Cost(job.ledger.inferred, wall_s, cpu_s(self.stack.pid) - cpu_began_s)

    def triton_use(self) -> dict[str, object]:
        """How full Triton's batches were so far, in frames, and how busy its GPU is, where it has one."""
        answer = httpx.get(self.client.readiness().triton_metrics_url)
        # The parser gives counters the suffix that they should have had.
        samples = [each for family in text_string_to_metric_families(answer.text) for each in family.samples]

        def total(name: str) -> float:
            return sum(sample.value for sample in samples if sample.name == name)

        use: dict[str, object] = {
            "batch fill": total("nv_inference_count_total") / total("nv_inference_exec_count_total")
        }
        if any(sample.name == "nv_gpu_utilization" for sample in samples):
            use["GPU use"] = total("nv_gpu_utilization")
        return use


@contextmanager
def open_bench(lab: Lab, **settings: str) -> Iterator[Bench]:
    """As `open_stack`, with data of its own and its first job behind it."""
    with open_stack(lab, lab.new_data_dir(), **settings) as bench:
        bench.job_cost(lab.clip(16))
        yield bench


@contextmanager
def open_stack(lab: Lab, data_dir: Path, **settings: str) -> Iterator[Bench]:
    """A stack that is ready. settings: names without TRIREEL_."""
    environment = {
        "TRIREEL_MODEL_REPOSITORY": str(lab.repository),
        "TRIREEL_DEVICE": lab.device,
        **{f"TRIREEL_{name}": value for name, value in settings.items()},
    }
    with embedded_stack(data_dir, environment) as stack, Client(stack.url) as client:
        yield Bench(stack, client, lab.model)
