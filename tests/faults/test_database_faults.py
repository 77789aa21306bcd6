"""A database that goes away for a while, or hangs up on everybody."""

from __future__ import annotations

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.topology import EMBEDDED_ON_POSTGRESQL, Role
from tests.faults.works import ALL_FRAMES, EVERY_OTHER

pytestmark = [pytest.mark.needs("triton"), pytest.mark.needs("postgresql"), pytest.mark.timeout(180)]

# Longer than readiness may take to tell.
AWAY_S = 8.0
HANG_UPS = 5
LEASE_S = "5"


def test_jobs_and_readiness_follow_a_database_that_is_away(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(EMBEDDED_ON_POSTGRESQL, seed, LEASE_S=LEASE_S) as trial:
        fault = trial.faults.plan(f"no PostgreSQL for {AWAY_S:.0f} s")
        for work in (ALL_FRAMES, EVERY_OTHER):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        postgres = trial.cluster.around.postgres
        assert postgres is not None
        trial.cluster.note(Role.POSTGRESQL, is_up=False)
        postgres.crash()
        trial.pass_time(AWAY_S)
        with trial.cluster.starting(Role.POSTGRESQL):
            postgres.start()
        fault.fired(postgres.port)


def test_a_database_that_hangs_up_is_called_again(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(EMBEDDED_ON_POSTGRESQL, seed, LEASE_S=LEASE_S) as trial:
        fault = trial.faults.plan("PostgreSQL ends every connection")
        for work in (ALL_FRAMES, EVERY_OTHER):
            trial.submit(work)
        postgres = trial.cluster.around.postgres
        assert postgres is not None
        for share in sorted(trial.random.uniform(0.0, 0.8) for _ in range(HANG_UPS)):
            trial.wait_for_share(share)
            ended = postgres.end_connections()
            assert ended > 0, "nobody was connected"
            fault.fired(f"{ended} connections at {share:.0%}")
