"""The n-th call that makes shared memory fails, or is the last of its program: at the start, and at work."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.counted_calls import Strike
from tests.faults.memory_calls import MemoryCalls
from tests.faults.topology import PLAIN, Role
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, EVERY_THIRD

pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(180)]

STOP_TIMEOUT_S: Final = 10.0
# Memory, room in it, and a name for it.
AT_START: Final = ("open", "posix_fallocate", "link")
# At work calls are all alike: one for every index and every segment, of which three runs have some sixty.
AT_WORK: Final = 9
# A third would be the segment's last, see `worker_lost`.
DEATHS: Final = 2
DEADLY: Final = (Strike.LAST_BEFORE, Strike.LAST)
LACK: Final = "code=decoder_unavailable"


@pytest.mark.thorough
@pytest.mark.parametrize("strike", [Strike.FAILS, *DEADLY], ids=lambda strike: strike.name.lower())
def test_a_start_that_cannot_make_its_shared_memory_leaves_none_of_it(
    trial_on: OpenTrial, tmp_path: Path, seed: int, strike: Strike
) -> None:
    calls = MemoryCalls(tmp_path / "order")
    with trial_on(PLAIN, seed, memory_calls=calls) as trial:
        fault = trial.faults.plan(f"a call that makes shared memory at the start {strike.value}")
        for work in (ALL_FRAMES, EVERY_OTHER):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.1, 0.4))
        trial.cluster.stop(Role.API, timeout_s=STOP_TIMEOUT_S)
        for number, name in enumerate(AT_START, 1):
            calls.plan(number, strike)
            code, log = trial.cluster.start_in_vain(Role.API)
            assert f"struck: {name}" in log
            if strike is Strike.FAILS:
                # Ended by itself, with a sentence.
                assert code > 0
                assert "shared_memory_full" in log
            else:
                assert code == -signal.SIGKILL
            fault.fired(f"{name}: exit code {code}")
        trial.cluster.start(Role.API)


def test_a_segment_or_an_index_that_cannot_have_its_memory_is_made_again(
    trial_on: OpenTrial, tmp_path: Path, seed: int
) -> None:
    calls = MemoryCalls(tmp_path / "order")
    with trial_on(PLAIN, seed, memory_calls=calls) as trial:
        fault = trial.faults.plan("a call that makes shared memory at work fails")
        # The very first is for the index, before there is a job.
        calls.plan(1, Strike.FAILS)
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD):
            trial.submit(work)
        trial.wait_until(calls.has_struck, what="the call comes")
        for strike in range(AT_WORK):
            number = trial.random.randint(1, 3)
            calls.plan(number, Strike.FAILS)
            trial.wait_until(calls.has_struck, what="the call comes")
            fault.fired(f"strike {strike}, call {number}")
    assert trial.cluster.times_told(LACK) > AT_WORK


@pytest.mark.thorough
@pytest.mark.parametrize("strike", DEADLY, ids=lambda strike: strike.name.lower())
def test_a_server_that_dies_where_it_makes_shared_memory_leaves_nothing(
    trial_on: OpenTrial, tmp_path: Path, seed: int, strike: Strike
) -> None:
    calls = MemoryCalls(tmp_path / "order")
    with trial_on(PLAIN, seed, memory_calls=calls) as trial:
        fault = trial.faults.plan(f"a call that makes shared memory at work {strike.value}")
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD):
            trial.submit(work)
        for number in range(1, DEATHS + 1):
            trial.cluster.remember_below(trial.cluster.running[Role.API].pid)
            calls.plan(number, strike)
            trial.wait_until(calls.has_struck, what="the call comes")
            fault.fired(f"call {number}, api ({trial.cluster.bury(Role.API)})")
            trial.cluster.start(Role.API)
