"""A server that may open no more files for a while, and a Redis that may store nothing more."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psutil
import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.topology import PLAIN, SCALED, Role
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, EVERY_THIRD, SHORT

pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(180)]

# A decoder takes up to five descriptors; each call that needs one is to miss its own.
MOST_SPARE: Final = 6
LACK_S: Final = 1.0
LACK: Final = "code=decoder_unavailable"


@contextmanager
def spare_descriptors(pid: int, count: int) -> Iterator[int]:
    """The program may open only about so many more; the number that it has."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = psutil.Process(pid).num_fds()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + count, limits[1]))
    try:
        yield used
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.thorough
@pytest.mark.needs("postgresql")
@pytest.mark.needs("redis")
def test_a_redis_without_room_delays_jobs_and_fails_none(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(SCALED, seed) as trial:
        fault = trial.faults.plan("no room in Redis")
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.0, 0.4))
        redis = trial.cluster.around.redis
        assert redis is not None
        with redis.without_room():
            fault.fired(redis.pid)
            trial.submit(SHORT)
            trial.wait_for_share(1.0)


def test_a_lack_of_descriptors_delays_jobs_and_fails_none(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(PLAIN, seed) as trial:
        fault = trial.faults.plan("no more descriptors")
        pid = trial.cluster.pids(Role.API)[0]
        works = [ALL_FRAMES, EVERY_OTHER, EVERY_THIRD, SHORT]
        for spare in range(MOST_SPARE + 1):
            if works:
                trial.submit(works.pop())
            told = trial.cluster.times_told(LACK)
            with spare_descriptors(pid, spare) as used:
                trial.pass_time(LACK_S)
            # A gap among the numbers of those that are open leaves room, so a limit alone is no lack.
            if trial.cluster.times_told(LACK) > told:
                fault.fired(f"{spare} beside {used}")
