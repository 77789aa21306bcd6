"""What can be deployed, as values; a scenario takes one and does not ask what is in it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import pytest


class Role(StrEnum):
    """What a fault can hit."""

    API = "api"
    WORKER = "worker"
    LISTENER = "listener"
    DECODER = "decoder"
    DECODER_PARENT = "decoder parent"
    TRITON = "triton"
    MODEL_STUB = "model stub"
    POSTGRESQL = "postgresql"
    REDIS = "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """apis: servers on one database and one data directory. workers: `trireel worker`s; with none the APIs do the work.

    has_own_triton: the API starts an embedded one and starts it again; else the test runs one, as an operator would.
    """

    name: str
    apis: int = 1
    workers: int = 0
    has_own_triton: bool = False
    has_postgresql: bool = False
    has_redis: bool = False

    @property
    def roles(self) -> tuple[Role, ...]:
        """Everything of it that can be killed."""
        roles = [Role.API, Role.DECODER, Role.DECODER_PARENT, Role.TRITON]
        roles += [Role.WORKER] if self.workers else []
        roles += [Role.LISTENER] if self.workers and self.has_redis else []
        # Nothing that we run would start the stub of somebody else's Triton again.
        roles += [Role.MODEL_STUB] if self.has_own_triton else []
        roles += [Role.POSTGRESQL] if self.has_postgresql else []
        roles += [Role.REDIS] if self.has_redis else []
        return tuple(roles)

    @property
    def needs(self) -> tuple[str, ...]:
        extra = (("postgresql", self.has_postgresql), ("redis", self.has_redis))
        return ("triton", *(name for name, is_needed in extra if is_needed))

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        return [pytest.mark.needs(name) for name in self.needs]

    @property
    def worker_role(self) -> Role:
        """The programs that take segments."""
        return Role.WORKER if self.workers else Role.API


def as_parameters(*topologies: Topology, thorough: Collection[Topology] = ()) -> list[Any]:
    """For a scenario that runs on each. thorough: those that only `make faults` takes the time for."""
    return [
        pytest.param(each, marks=[*each.marks, *([pytest.mark.thorough] if each in thorough else [])], id=each.name)
        for each in topologies
    ]


EMBEDDED: Final = Topology(name="embedded", has_own_triton=True)
EMBEDDED_ON_POSTGRESQL: Final = Topology(name="postgresql", has_postgresql=True)
TWO_SERVERS: Final = Topology(name="two_servers", apis=2, has_postgresql=True)
# SQLite and a Triton that the test can take away: where a fault is about neither.
PLAIN: Final = Topology(name="plain")
# An API that leaves the work to others, as on many machines.
SCALED: Final = Topology(name="scaled", workers=2, has_postgresql=True, has_redis=True)
