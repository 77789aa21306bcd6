"""kill -9 of whatever a role names, and the restart that its supervisor, or an operator, would make."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

import httpx

from tests.faults.cluster import Cluster
from tests.faults.topology import Role
from tests.faults.trial import Trial
from tests.support.faulty_triton import is_server_ready

# Longer than a supervisor takes to notice, and shorter than anybody's patience.
LONGEST_DOWN_S: Final = 1.0
FIND_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Striker:
    """Draws its victims and the time they stay away from the trial's seed."""

    trial: Trial

    @property
    def cluster(self) -> Cluster:
        return self.trial.cluster

    @property
    def random(self) -> Random:
        return self.trial.random

    def kill(self, role: Role) -> str:
        """Returns when it is there again, where it does not come by itself; what was hit, in words."""
        match role:
            case Role.API | Role.WORKER:
                return self._kill_program(role)
            case Role.POSTGRESQL:
                return self._kill_postgresql()
            case Role.REDIS:
                return self._kill_redis()
            case Role.TRITON if not self.cluster.topology.has_own_triton:
                return self._kill_triton()
            case _:
                return self._kill_process(role)

    def _kill_program(self, role: Role) -> str:
        names = self.cluster.api_names if role is Role.API else self.cluster.worker_names
        name = self.random.choice(names)
        pid = self.cluster.kill(name)
        self._stay_away()
        # Not until it is ready: with Triton away, which may be the next to fall, it never would be.
        self.cluster.start(name)
        return f"{name} ({pid})"

    def _kill_postgresql(self) -> str:
        postgres = self.cluster.around.postgres
        assert postgres is not None
        # From here on: it takes a moment until all of it is gone.
        self.cluster.note(Role.POSTGRESQL, is_up=False)
        pid = postgres.kill()
        self._stay_away()
        with self.cluster.starting(Role.POSTGRESQL):
            postgres.start()
        return f"postgresql ({pid})"

    def _kill_redis(self) -> str:
        redis = self.cluster.around.redis
        assert redis is not None
        pid = redis.pid
        redis.crash()
        self._stay_away()
        redis.start()
        return f"redis ({pid})"

    def _kill_triton(self) -> str:
        pid = self.cluster.kill_triton()
        self._stay_away()
        self.cluster.start_triton()
        return f"triton ({pid})"

    def _kill_process(self, role: Role) -> str:
        """One that whoever started it starts again."""
        if role in (Role.TRITON, Role.MODEL_STUB):
            url = httpx.get(f"{self.cluster.url}/readyz").json()["triton_url"]
            with self.cluster.starting(Role.TRITON):
                pid = self._kill_one(role)
                self._wait_for_another(role, pid, url)
        else:
            pid = self._kill_one(role)
        return f"{role.value} ({pid})"

    def _kill_one(self, role: Role) -> int:
        """Its pid. One that ended by itself at that moment is not it."""
        killed: list[int] = []

        def has_killed() -> bool:
            pids = sorted(self.cluster.pids(role))
            if pids:
                pid = self.random.choice(pids)
                with suppress(ProcessLookupError):
                    self.cluster.remember_below(pid)
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            return bool(killed)

        self.trial.wait_until(has_killed, what=f"a {role.value} lives", timeout_s=FIND_TIMEOUT_S)
        return killed[0]

    def _wait_for_another(self, role: Role, killed_pid: int, triton_url: str) -> None:
        """Until the embedded Triton that the server starts again says itself that it is ready."""
        self.trial.wait_until(
            lambda: bool(set(self.cluster.pids(role)) - {killed_pid}) and is_server_ready(triton_url),
            what=f"another {role.value} lives",
            timeout_s=FIND_TIMEOUT_S,
        )

    def _stay_away(self) -> None:
        self.trial.pass_time(self.random.uniform(0.0, LONGEST_DOWN_S))
