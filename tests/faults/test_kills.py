"""kill -9 at random times, of everything that a deployment consists of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.striking import Striker
from tests.faults.topology import EMBEDDED, EMBEDDED_ON_POSTGRESQL, SCALED, Role, Topology
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, EVERY_THIRD, SHORT

pytestmark = pytest.mark.timeout(180)

# Fewer than the three deaths in one segment after which its frames are given up: that is another scenario.
KILLS: Final = 2
LATEST_SHARE: Final = 0.8
LONGEST_JITTER_S: Final = 0.05
# On PostgreSQL with one server what differs is who can be away: the rest is met in the other two.
STRUCK: Final = {
    EMBEDDED: EMBEDDED.roles,
    EMBEDDED_ON_POSTGRESQL: (Role.API, Role.POSTGRESQL),
    SCALED: SCALED.roles,
}
# One of each, where that takes least time.
QUICK: Final = {
    EMBEDDED: (Role.API, Role.DECODER, Role.TRITON),
    EMBEDDED_ON_POSTGRESQL: (Role.POSTGRESQL,),
    SCALED: (Role.WORKER, Role.REDIS),
}
# A segment that could not be handed back, since the database was away, waits for the end of its lease.
LEASE_S: Final = "5"


def marks_of(topology: Topology, role: Role) -> list[pytest.MarkDecorator]:
    return [*topology.marks, *([] if role in QUICK.get(topology, ()) else [pytest.mark.thorough])]


def victims() -> list[Any]:
    return [
        pytest.param(
            topology, role, marks=marks_of(topology, role), id=f"{role.value.replace(' ', '_')}-{topology.name}"
        )
        for topology, roles in STRUCK.items()
        for role in roles
    ]


@pytest.mark.parametrize(("topology", "role"), victims())
def test_nothing_is_lost_by_a_kill(
    trial_on: OpenTrial, topology: Topology, role: Role, kill_seed: int, request: pytest.FixtureRequest
) -> None:
    is_hurt = role is Role.TRITON and not topology.has_own_triton
    triton = request.getfixturevalue("own_triton") if is_hurt else None
    with trial_on(topology, kill_seed, triton=triton, LEASE_S=LEASE_S) as trial, ThreadPoolExecutor() as beside:
        fault = trial.faults.plan(f"kill -9 of {role.value}")
        striker = Striker(trial)
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD, EVERY_OTHER):
            trial.submit(work)
        for share in sorted(trial.random.uniform(0.0, LATEST_SHARE) for _ in range(KILLS)):
            trial.wait_for_share(share)
            # Whoever submits at this moment insists, and must get what was accepted.
            submitted = beside.submit(trial.submit, SHORT, key=trial.new_key())
            trial.pass_time(trial.random.uniform(0.0, LONGEST_JITTER_S))
            fault.fired(f"{striker.kill(role)} at {share:.0%}")
            submitted.result()
