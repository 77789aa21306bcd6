"""The n-th request to Redis is lost, for every program of a cluster and again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.topology import SCALED
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, EVERY_THIRD
from tests.support.counted_redis import counted_redis
from tests.support.cutting_proxy import Cut
from tests.support.redis import RedisServer

pytestmark = [*SCALED.marks, pytest.mark.thorough, pytest.mark.timeout(180)]

# A job makes three requests a segment; the last number is far into the work.
LARGEST: Final = 24


@pytest.mark.parametrize("cut", Cut, ids=lambda cut: cut.name.lower())
def test_every_request_to_redis_may_be_lost(
    trial_on: OpenTrial, redis: RedisServer, sweep: Callable[[], Iterator[int]], seed: int, cut: Cut
) -> None:
    with counted_redis(redis.port) as counted, trial_on(SCALED, seed, redis_url=counted.url) as trial:
        fault = trial.faults.plan("the n-th request to Redis is lost")
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD):
            trial.submit(work)
        for number in sweep():
            if number > LARGEST:
                break
            fault.fired(counted.strike(number, cut))
