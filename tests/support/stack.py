"""The real programs, `python -m orchestrator serve` and `worker`, as children, for end-to-end tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.cli.embedded_stack import answers
from orchestrator.client import Client, DoneBody, JobAnswer, JobEvent, SubmitJob
from tests.support.needs import ROOT
from tests.support.programs import LOOPBACK, Program, free_ports, running

START_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Stack:
    """A server that is ready. data_dir: where it keeps everything."""

    url: str
    program: Program
    data_dir: Path
    client: Client

    def run_to_end(self, job: SubmitJob) -> tuple[JobAnswer, list[JobEvent]]:
        """Submit a job and follow it; the job as it ended, and all its events."""
        submitted = self.client.submit(job)
        events = list(self.client.follow(submitted.id))
        assert isinstance(events[-1].body, DoneBody)
        return self.client.job(submitted.id), events


@contextmanager
def serving(folder: Path, *, model_repository: Path, **settings: str) -> Iterator[Stack]:
    """A server with its data and log in `folder`; settings: by their names without TRIREEL_."""
    (port,) = free_ports(1)
    data_dir = folder / "data"
    env = _environment(data_dir, model_repository, {"PORT": str(port), **settings})
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://{LOOPBACK}:{port}"
    with (
        running([sys.executable, "-m", "orchestrator", "serve"], folder=folder, env=env) as program,
        Client(url) as client,
    ):
        program.wait_until(
            lambda: answers(client) and client.readiness().is_ready, timeout_s=START_TIMEOUT_S, what="ready"
        )
        yield Stack(url, program, data_dir, client)


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """metrics_url: where it counts what it does."""

    program: Program
    metrics_url: str

    def frames_inferred(self) -> int:
        samples = [
            sample
            for family in text_string_to_metric_families(httpx.get(self.metrics_url).text)
            for sample in family.samples
            if sample.name == "trireel_frames_inferred_total"
        ]
        return int(sum(sample.value for sample in samples))


@contextmanager
def working(folder: Path, *, data_dir: Path, model_repository: Path, **settings: str) -> Iterator[RunningWorker]:
    """A worker that has started, with its log in `folder`; settings: as of `serving`, and the two URLs it needs."""
    (port,) = free_ports(1)
    env = _environment(data_dir, model_repository, {"METRICS_PORT": str(port), **settings})
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://{LOOPBACK}:{port}/metrics"
    with running([sys.executable, "-m", "orchestrator", "worker"], folder=folder, env=env) as program:
        program.wait_until(lambda: is_answered(url), timeout_s=START_TIMEOUT_S, what="started")
        yield RunningWorker(program, url)


def is_answered(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def _environment(data_dir: Path, model_repository: Path, settings: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TRIREEL_HOST": LOOPBACK,
        "TRIREEL_DATA_DIR": str(data_dir),
        "TRIREEL_MODEL_REPOSITORY": str(model_repository),
        "TRIREEL_TRITON_ENV": os.environ.get("TRIREEL_TRITON_ENV", str(ROOT / ".venv-triton")),
        **{f"TRIREEL_{name}": value for name, value in settings.items()},
    }
