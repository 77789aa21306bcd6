"""Prometheus on a real Triton and a real orchestrator, joined as in docker-compose.yml, but for the addresses."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from orchestrator.inference.installation import build_environment, find_installation, link_backends
from orchestrator.settings import load_settings
from tests.support.compose import env_file, environment_of, load_compose, triton_flags
from tests.support.needs import ROOT
from tests.support.programs import LOOPBACK, Program, free_ports, running
from trireel import Client, SubmitJob

SERVICES = load_compose()["services"]
CLIP = ROOT / "export" / "demo" / "clip.mp4"
START_TIMEOUT_S = 60.0
# Six scrapes at the shipped interval.
SCRAPES_S = 30.0

pytestmark = [pytest.mark.needs("triton"), pytest.mark.needs("prometheus"), pytest.mark.timeout(240)]


@dataclass(frozen=True, slots=True)
class Watched:
    """The three of them, up. Prometheus is the program whose patience counts: it is asked and waited for."""

    prometheus: Program
    prometheus_url: str
    api_url: str

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of Prometheus' answer."""
        return httpx.get(f"{self.prometheus_url}/api/v1/{path}", params=query).raise_for_status().json()["data"]

    def value(self, expression: str) -> float:
        """The value of an expression with one sample, 0 while there is none."""
        samples = self.ask("query", query=expression)["result"]
        assert len(samples) <= 1, samples
        return float(samples[0]["value"][1]) if samples else 0.0


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def triton_command(server: Path, backends: Path, http: int, grpc: int, metrics: int) -> list[str]:
    """The shipped flags on the loopback; the newer flag is left out, and the wheel's only backend is chosen."""
    flags = triton_flags(SERVICES["triton-cpu"]) | {
        "model-repository": str(ROOT / "model_repository"),
        "model-config-name": "embedded",
        "backend-directory": str(backends),
        "http-port": str(http),
        "grpc-address": LOOPBACK,
        "grpc-port": str(grpc),
        "metrics-address": LOOPBACK,
        "metrics-port": str(metrics),
    }
    del flags["allow-client-shm"]
    return [str(server), *(f"--{name}={text}" if text else f"--{name}" for name, text in flags.items())]


def orchestrator_environment(data_dir: Path, port: int, triton_grpc: int) -> dict[str, str]:
    addresses = {
        "TRIREEL_HOST": LOOPBACK,
        "TRIREEL_PORT": str(port),
        "TRIREEL_DATA_DIR": str(data_dir),
        "TRIREEL_MODEL_REPOSITORY": str(ROOT / "model_repository"),
        "TRIREEL_TRITON_URL": f"{LOOPBACK}:{triton_grpc}",
    }
    shipped = environment_of(SERVICES["orchestrator"], {**env_file(), "TRIREEL_DEVICE": "cpu"})
    return {**os.environ, **shipped, **addresses}


def prometheus_configuration(folder: Path, addresses: dict[str, str]) -> Path:
    """The shipped configuration and rules in `folder`, each target exchanged. Workers are looked up: there are none."""
    shipped = ROOT / "deploy" / "prometheus"
    configuration = yaml.safe_load((shipped / "prometheus.yml").read_text())
    for job in configuration["scrape_configs"]:
        for static in job.get("static_configs", ()):
            static["targets"] = [addresses[job["job_name"]]]
    (folder / "rules.yml").write_text((shipped / "rules.yml").read_text())
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    return file


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("deployment")
    http, grpc, metrics, api, prometheus_port = free_ports(5)
    environment = load_settings({name: text for name, text in os.environ.items() if name == "TRIREEL_TRITON_ENV"})
    installation = asyncio.run(find_installation(environment.triton.environment))
    with ExitStack() as stack:
        backends = link_backends(installation, folder / "backends")
        command = triton_command(installation.server, backends, http, grpc, metrics)
        triton = stack.enter_context(running(command, folder=folder, env=build_environment(installation, os.environ)))
        health = f"http://{LOOPBACK}:{http}/v2/health"
        triton.wait_until(lambda: answers(f"{health}/ready"), timeout_s=START_TIMEOUT_S, what="Triton is ready")

        api_url = f"http://{LOOPBACK}:{api}"
        command = [sys.executable, "-m", "orchestrator", "serve"]
        orchestrator = stack.enter_context(
            running(command, folder=folder, env=orchestrator_environment(folder / "data", api, grpc))
        )
        orchestrator.wait_until(lambda: answers(f"{api_url}/readyz"), timeout_s=START_TIMEOUT_S, what="it is ready")

        addresses = {"orchestrator": f"{LOOPBACK}:{api}", "triton": f"{LOOPBACK}:{metrics}"}
        command = [
            "prometheus",
            f"--config.file={prometheus_configuration(folder, addresses)}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address={LOOPBACK}:{prometheus_port}",
        ]
        prometheus = stack.enter_context(running(command, folder=folder))
        url = f"http://{LOOPBACK}:{prometheus_port}"
        prometheus.wait_until(lambda: answers(f"{url}/-/ready"), timeout_s=START_TIMEOUT_S, what="it is ready")
        yield Watched(prometheus, url, api_url)


def test_both_targets_are_up(watched: Watched) -> None:
    def healths() -> dict[str, str]:
        return {target["scrapePool"]: target["health"] for target in watched.ask("targets")["activeTargets"]}

    expected = {"orchestrator": "up", "triton": "up"}
    watched.prometheus.wait_until(lambda: healths() == expected, timeout_s=SCRAPES_S, what="both targets are up")


def test_the_containers_health_check_asks_for_something_that_prometheus_answers(watched: Watched) -> None:
    path = urlsplit(SERVICES["prometheus"]["healthcheck"]["test"][-1]).path
    assert answers(f"{watched.prometheus_url}{path}")


def test_the_inferences_of_a_job_are_counted_by_triton_and_by_the_orchestrator(watched: Watched) -> None:
    by_triton = 'sum(nv_inference_count{model="demo_shapes"})'
    by_orchestrator = 'sum(trireel_frames_inferred_total{model="demo_shapes"})'
    watched.prometheus.wait_until(
        lambda: watched.ask("query", query=by_triton)["result"] != [], timeout_s=SCRAPES_S, what="Triton is scraped"
    )
    before = watched.value(by_triton)
    with Client(watched.api_url) as client:
        job = client.submit(SubmitJob(video_id=client.upload(CLIP).id, model="demo_shapes"))
        for _ in client.follow(job.id):
            pass
        finished = client.job(job.id)
    assert finished.state == "succeeded"
    inferred = finished.ledger.inferred
    assert inferred > 0
    for expression, frames in ((by_triton, before + inferred), (by_orchestrator, inferred)):
        watched.prometheus.wait_until(
            lambda expression=expression, frames=frames: watched.value(expression) == frames,
            timeout_s=SCRAPES_S,
            what=f"{expression} is {frames}",
        )


def test_no_rule_is_in_trouble(watched: Watched) -> None:
    rules = [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
