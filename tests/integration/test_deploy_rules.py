"""The shipped Prometheus configuration, as far as promtool and our own metrics know it."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from prometheus_client import CollectorRegistry

from orchestrator.core.states import JobState
from orchestrator.telemetry import Metrics
from tests.support.compose import load_compose
from tests.support.needs import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
EXPRESSIONS = [rule["expr"] for group in RULES for rule in group["rules"]]


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    subprocess.run(["promtool", "check", "config", FOLDER / "prometheus.yml"], check=True, timeout=60)


@pytest.mark.needs("promtool")
def test_alerts_fire_when_they_should_and_only_then() -> None:
    subprocess.run(["promtool", "test", "rules", "rules_test.yml"], cwd=FOLDER, check=True, timeout=60)


def exported_names() -> set[str]:
    """Names of all samples the orchestrator may export."""
    metrics = Metrics(CollectorRegistry())
    names = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[family.type]
        names |= {family.name + suffix for suffix in suffixes}
    return names


def test_rules_speak_of_metrics_that_the_orchestrator_has() -> None:
    used = {name for expression in EXPRESSIONS for name in re.findall(r"\btrireel_\w+", expression)}
    assert used
    assert used - exported_names() == set()


def test_rules_speak_of_states_that_a_job_can_have() -> None:
    alternatives = [text for expression in EXPRESSIONS for text in re.findall(r'state=~"([^"]+)"', expression)]
    assert alternatives
    assert {state for text in alternatives for state in text.split("|")} - set(JobState) == set()


def test_every_target_is_a_service_of_the_compose_file_that_prometheus_can_reach() -> None:
    services = load_compose()["services"]
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = configuration["scrape_configs"]
    targets = [target for job in jobs for static in job.get("static_configs", ()) for target in static["targets"]]
    targets += [
        f"{name}:{names['port']}" for job in jobs for names in job.get("dns_sd_configs", ()) for name in names["names"]
    ]
    ports = {
        "orchestrator": services["orchestrator"]["environment"]["TRIREEL_PORT"],
        "triton": "8002",
        "worker": services["worker"]["environment"]["TRIREEL_METRICS_PORT"],
    }
    assert sorted(targets) == [f"{host}:{port}" for host, port in ports.items()]
    assert all(set(services[host]["networks"]) & set(services["prometheus"]["networks"]) for host in ports)
