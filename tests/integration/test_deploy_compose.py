"""What can be known of docker-compose.yml without a Docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from orchestrator.bootstrap import SLOTS_A_DECODER, USUAL_IMGSZ
from orchestrator.core.contract import FRAME_CHANNELS
from orchestrator.settings import DEFAULTS, load_settings
from tests.support.compose import (
    COMPOSE_FILE,
    env_file,
    environment_of,
    interpolated,
    load_compose,
    published_ports,
    triton_flags,
)
from tests.support.needs import ROOT

COMPOSE = load_compose()
SERVICES = COMPOSE["services"]
TRITONS = ("triton", "triton-cpu")
SCALE_ENV = "deploy/scale.env"
# A tag that is a version, and not a name that moves.
PINNED_IMAGE = re.compile(r"^[a-z0-9./-]+:v?\d+\.\d+[\w.-]*$")

# Since 26.05; the server in our wheel is older.
FLAGS_NEWER_THAN_THE_WHEEL = {"allow-client-shm"}
GIB = 1024**3
# --http-port and so on are left at Triton's defaults.
TRITON_GRPC_PORT, TRITON_METRICS_PORT = 8001, 8002


def service_names() -> list[str]:
    return sorted(SERVICES)


def test_the_file_keeps_the_compose_specification() -> None:
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(COMPOSE)


def docker_compose_config(document: dict[str, Any], folder: Path, profile: str) -> subprocess.CompletedProcess[str]:
    file = folder / "docker-compose.yml"
    file.write_text(yaml.safe_dump(document))
    command = ["docker-compose", "--file", file, "--project-directory", ROOT, "--profile", profile, "config"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def without_what_1_29_is_too_old_for(document: dict[str, Any]) -> dict[str, Any]:
    """docs/deployment.md names the same."""
    return {key: section for key, section in document.items() if key != "name"}


@pytest.mark.needs("docker_compose")
@pytest.mark.parametrize("profile", ["gpu", "cpu", "scale"])
def test_docker_compose_1_29_reads_all_but_what_it_is_too_old_for(profile: str, tmp_path: Path) -> None:
    answer = docker_compose_config(without_what_1_29_is_too_old_for(COMPOSE), tmp_path, profile)
    assert answer.returncode == 0, answer.stderr
    understood = yaml.safe_load(answer.stdout)["services"]
    assert understood["orchestrator"]["ipc"] == "service:ipc"
    assert understood["ipc"]["shm_size"] == "2gb"
    assert set(understood) == set(SERVICES)


@pytest.mark.needs("docker_compose")
def test_docker_compose_1_29_is_still_too_old_for_the_name(tmp_path: Path) -> None:
    answer = docker_compose_config(COMPOSE, tmp_path, "gpu")
    assert answer.returncode != 0
    assert "'name' does not match" in answer.stderr


@pytest.mark.parametrize("name", service_names())
def test_every_service_is_pinned_limited_checked_and_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert PINNED_IMAGE.match(service["image"])
    assert {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["pids_limit"] > 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", service_names())
def test_ports_are_open_on_the_loopback_only(name: str) -> None:
    assert {port.address for port in published_ports(SERVICES[name])} <= {"127.0.0.1"}


@pytest.mark.parametrize("name", TRITONS)
def test_triton_is_reached_by_the_private_network_only(name: str) -> None:
    assert set(SERVICES[name]["networks"]) == {"backend"}
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    assert "ports" not in SERVICES[name]
    assert triton_flags(SERVICES[name])["http-address"] == "127.0.0.1"


@pytest.mark.parametrize("name", service_names())
def test_volumes_and_mounted_files_exist(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source = mount.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_the_orchestrator_accepts_its_environment(profile: str) -> None:
    environment = environment_of(SERVICES["orchestrator"], {**env_file(), "TRIREEL_DEVICE": profile})
    settings = load_settings(environment, cores=4)
    assert settings.triton.device == profile
    assert settings.triton.urls == (f"triton:{TRITON_GRPC_PORT}",)
    assert settings.redis.url is None
    assert set(SERVICES["orchestrator"]["environment"]) <= set(DEFAULTS)


def test_with_the_profile_scale_api_and_workers_share_database_redis_data_and_triton() -> None:
    env = env_file() | env_file(SCALE_ENV)
    api, worker = (load_settings(environment_of(SERVICES[name], env), cores=4) for name in ("orchestrator", "worker"))
    for shared in ("storage", "redis", "triton", "limits"):
        assert getattr(api, shared) == getattr(worker, shared)
    assert worker.redis.url is not None
    assert urlsplit(worker.redis.url).hostname in SERVICES
    database = urlsplit(worker.storage.database_url)
    postgres = environment_of(SERVICES["postgres"], env)
    assert (database.username, database.password, database.path[1:]) == tuple(
        postgres[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB")
    )
    assert database.hostname in SERVICES
    assert SERVICES["worker"]["volumes"] == SERVICES["orchestrator"]["volumes"]
    assert SERVICES["worker"]["deploy"]["replicas"] == 2


def test_a_workers_metrics_are_scraped_and_tell_of_its_life() -> None:
    port = int(SERVICES["worker"]["environment"]["TRIREEL_METRICS_PORT"])
    assert f"http://127.0.0.1:{port}/metrics" in SERVICES["worker"]["healthcheck"]["test"][-1]
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (discovered,) = [each["dns_sd_configs"] for each in prometheus["scrape_configs"] if each["job_name"] == "worker"]
    assert [(each["names"], each["port"]) for each in discovered] == [(["worker"], port)]


def test_each_profile_has_exactly_one_triton_and_the_gpu_is_the_default() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    tritons = {"triton": ["gpu"], "triton-cpu": ["cpu"]}
    assert profiles == tritons | {name: ["scale"] for name in ("worker", "postgres", "redis")}
    assert env_file()["COMPOSE_PROFILES"] == env_file()["TRIREEL_DEVICE"] == "gpu"
    assert env_file(SCALE_ENV)["COMPOSE_PROFILES"] == "gpu,scale"
    assert SERVICES["triton-cpu"]["networks"]["backend"]["aliases"] == ["triton"]
    assert SERVICES["triton-cpu"]["command"] == SERVICES["triton"]["command"]


def test_only_the_gpu_profile_asks_for_a_gpu() -> None:
    asked = {name for name in SERVICES if "reservations" in SERVICES[name]["deploy"]["resources"]}
    assert asked == {"triton"}


def test_triton_and_the_orchestrator_share_memory_of_a_third() -> None:
    sharing = {name for name, service in SERVICES.items() if service.get("ipc") == "service:ipc"}
    assert sharing == {"orchestrator", "worker", *TRITONS}
    assert SERVICES["ipc"]["ipc"] == "shareable"
    assert all(triton_flags(SERVICES[name])["allow-client-shm"] == "true" for name in TRITONS)


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_shared_memory_holds_all_slots_with_room_to_spare(profile: str) -> None:
    environment = environment_of(SERVICES["orchestrator"], {**env_file(), "TRIREEL_DEVICE": profile})
    work = load_settings(environment, cores=4).work
    workers = SERVICES["worker"]["deploy"]["replicas"]
    slots_bytes = workers * work.decoders * SLOTS_A_DECODER * work.batch_frames * USUAL_IMGSZ**2 * FRAME_CHANNELS
    assert slots_bytes < int(SERVICES["ipc"]["shm_size"].removesuffix("gb")) * GIB / 2


def test_shared_memory_is_made_and_read_by_one_user() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)
    assert {SERVICES[name]["user"] for name in (*TRITONS, "ipc")} == {user}


def test_the_port_of_the_api_is_the_same_everywhere() -> None:
    orchestrator = SERVICES["orchestrator"]
    port = int(orchestrator["environment"]["TRIREEL_PORT"])
    assert {published.container for published in published_ports(orchestrator)} == {port}
    assert f"http://127.0.0.1:{port}/healthz" in orchestrator["healthcheck"]["test"][-1]


def test_what_stops_is_given_the_time_it_asks_for() -> None:
    def seconds(text: str) -> float:
        return float(text.removesuffix("s"))

    assert seconds(SERVICES["orchestrator"]["stop_grace_period"]) > float(DEFAULTS["TRIREEL_STOP_TIMEOUT_S"])
    for name in TRITONS:
        assert seconds(SERVICES[name]["stop_grace_period"]) > float(triton_flags(SERVICES[name])["exit-timeout-secs"])


def test_the_image_carries_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in ("orchestrator", "worker"):
        assert SERVICES[name]["image"] == f"trireel:{project['version']}"


def test_every_knob_of_env_file_is_used() -> None:
    text = COMPOSE_FILE.read_text()
    # Compose's own, and what is passed on as it is.
    known = {"COMPOSE_PROFILES", *(name for name, value in COMPOSE["x-settings"].items() if value is None)}
    knobs = set(env_file()) | set(env_file(SCALE_ENV))
    assert [name for name in knobs - known if f"${{{name}:-" not in text] == []
    assert "${" not in interpolated(text.replace("$${", ""), {})


@pytest.mark.needs("triton")
def test_triton_knows_its_flags() -> None:
    (server,) = ROOT.glob(".venv-triton/lib/python3.*/site-packages/pytriton/tritonserver/bin/tritonserver")
    help_text = subprocess.run([server, "--help"], capture_output=True, text=True, timeout=60)
    known = set(re.findall(r"^\s+--([a-z0-9-]+)", help_text.stdout + help_text.stderr, re.MULTILINE))
    assert set(triton_flags(SERVICES["triton"])) - known == FLAGS_NEWER_THAN_THE_WHEEL
