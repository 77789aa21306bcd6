"""docker-compose.yml as data, for tests that need no Docker engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from tests.support.needs import ROOT

COMPOSE_FILE: Final = ROOT / "docker-compose.yml"
# ${NAME:-default}, the only form of interpolation in the file.
VARIABLE: Final = re.compile(r"\$\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\}")

Service = dict[str, Any]


def load_compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return document


def interpolated(text: str, env: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda match: env.get(match["name"]) or match["default"], text)


def env_file(name: str = ".env") -> dict[str, str]:
    """The variables in an env file of the checkout."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def environment_of(service: Service, env: Mapping[str, str]) -> dict[str, str]:
    """The variables a container gets. A variable without a value is passed on where `env` has it."""
    declared: dict[str, str | None] = service.get("environment", {})
    texts = {name: env.get(name) if text is None else interpolated(text, env) for name, text in declared.items()}
    return {name: text for name, text in texts.items() if text is not None}


@dataclass(frozen=True, slots=True)
class PublishedPort:
    address: str
    host: int
    container: int


def published_ports(service: Service) -> list[PublishedPort]:
    parts = [port.rsplit(":", 2) for port in service.get("ports", [])]
    return [PublishedPort(address, int(host), int(container)) for address, host, container in parts]


def triton_flags(service: Service) -> dict[str, str]:
    """--name=value without the dashes; an empty value for a bare flag."""
    return dict(flag.removeprefix("--").partition("=")[::2] for flag in service["command"][1:])
