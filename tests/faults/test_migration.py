"""An upgrade of the product with jobs in flight: the database is of the release before, and half the work is done."""

from __future__ import annotations

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.gathering import gather_rows
from tests.faults.topology import EMBEDDED_ON_POSTGRESQL, PLAIN, Role, Topology, as_parameters
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, EVERY_THIRD
from tests.support.earlier_database import previous_revision, take_postgresql_back, take_sqlite_back

pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(120)]


@pytest.mark.parametrize("topology", as_parameters(PLAIN, EMBEDDED_ON_POSTGRESQL, thorough={EMBEDDED_ON_POSTGRESQL}))
def test_jobs_go_on_over_a_migration(trial_on: OpenTrial, topology: Topology, seed: int) -> None:
    with trial_on(topology, seed) as trial:
        fault = trial.faults.plan("the schema is of the release before")
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        trial.cluster.kill(Role.API)
        rows = gather_rows(trial.cluster.open_to_read())
        assert any(row["state"] == "leased" for row in rows.segments), "nothing was in flight"
        revision = previous_revision()
        postgres = trial.cluster.around.postgres
        if postgres is not None:
            take_postgresql_back(postgres, revision)
        else:
            take_sqlite_back(trial.cluster.data_dir / "trireel.db", revision)
        fault.fired(f"revision {revision}")
        trial.cluster.start(Role.API)
