"""Workers whose machines have wrong clocks."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.faults.cluster import Cluster
from tests.faults.conftest import OpenTrial
from tests.faults.topology import SCALED
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, EVERY_THIRD

pytestmark = [*SCALED.marks, pytest.mark.needs("faketime"), pytest.mark.thorough, pytest.mark.timeout(180)]

HOUR_S: Final = 3600
TAKEN_OVER: Final = "segment lost to another attempt"
LOGGED_AT: Final = re.compile(r"^\d{4}-\d\d-\d\dT(\d\d):", re.MULTILINE)


def first_hour(cluster: Cluster, name: str) -> int:
    """As the log of a program tells it."""
    return int(LOGGED_AT.findall(cluster.log_of(name))[0])


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S], ids=["ahead", "behind"])
def test_a_worker_whose_clock_is_an_hour_wrong_takes_nothing_from_others(
    trial_on: OpenTrial, seed: int, ahead_s: int
) -> None:
    with trial_on(SCALED, seed, clocks={"worker-1": ahead_s}) as trial:
        fault = trial.faults.plan(f"a clock that is {ahead_s:+d} s wrong")
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD):
            trial.submit(work)
        trial.wait_for_share(1.0)
        right, wrong = (first_hour(trial.cluster, name) for name in trial.cluster.worker_names)
        # The hour may have struck between the starts of the two.
        hours = ahead_s // HOUR_S
        assert (wrong - right) % 24 in {hours % 24, (hours + 1) % 24}
        fault.fired(f"{wrong} o'clock by its log, {right} by the other's")
    assert trial.cluster.times_told(TAKEN_OVER) == 0
