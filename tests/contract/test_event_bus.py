"""Every `EventBus`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from orchestrator.core.records import Progress
from orchestrator.events.memory import MemoryEventBus
from orchestrator.ports import EventBus, Wake

OPENERS: Final[dict[str, Callable[[], EventBus]]] = {"memory": MemoryEventBus}
LONG_S: Final = 60.0


@pytest.fixture(params=OPENERS)
def bus(request: pytest.FixtureRequest) -> EventBus:
    return OPENERS[request.param]()


def progress_of(run_id: str, frames_done: int) -> Progress:
    return Progress(
        run_id=run_id,
        frames_done=frames_done,
        frames_total=100,
        fps=None,
        realtime_factor=None,
        eta_s=None,
        stage="inferring",
    )


async def test_a_ring_reaches_those_who_named_one_of_its_ids(bus: EventBus) -> None:
    async with bus.subscribe("job_1", "run_1") as near, bus.subscribe("job_2") as far, bus.subscribe() as everything:
        await bus.ring("job_9", "run_1")
        assert (await near.next(timeout_s=LONG_S)).rang
        assert (await everything.next(timeout_s=LONG_S)).rang
        assert await far.next(timeout_s=0) == Wake(rang=False, progress={})


async def test_what_came_before_the_wait_is_not_missed(bus: EventBus) -> None:
    async with bus.subscribe("job_1") as subscription:
        await bus.ring("job_1")
        await bus.ring("job_1")
        assert (await subscription.next(timeout_s=LONG_S)).rang
        assert not (await subscription.next(timeout_s=0)).rang


async def test_a_waiting_subscriber_wakes(bus: EventBus) -> None:
    async with bus.subscribe("job_1") as subscription:
        waiting = asyncio.ensure_future(subscription.next(timeout_s=LONG_S))
        await asyncio.sleep(0)
        await bus.ring("job_1")
        assert (await waiting).rang


async def test_the_newest_snapshot_of_each_run_is_told(bus: EventBus) -> None:
    async with bus.subscribe() as everything, bus.subscribe("run_1", "job_1") as one:
        for frames_done in range(1000):
            await bus.publish_progress(progress_of("run_1", frames_done))
        await bus.publish_progress(progress_of("run_2", 5))
        newest = progress_of("run_1", 999)
        assert await one.next(timeout_s=LONG_S) == Wake(rang=False, progress={"run_1": newest})
        wake = await everything.next(timeout_s=LONG_S)
        assert wake == Wake(rang=False, progress={"run_1": newest, "run_2": progress_of("run_2", 5)})


async def test_a_wait_that_is_cancelled_loses_nothing(bus: EventBus) -> None:
    async with bus.subscribe("job_1") as subscription:
        waiting = asyncio.ensure_future(subscription.next(timeout_s=LONG_S))
        await asyncio.sleep(0)
        waiting.cancel()
        await bus.ring("job_1")
        await asyncio.gather(waiting, return_exceptions=True)
        assert (await subscription.next(timeout_s=LONG_S)).rang


async def test_a_ring_without_subscribers_is_no_error(bus: EventBus) -> None:
    async with bus.subscribe("job_1"):
        pass
    await bus.ring("job_1")
    await bus.publish_progress(progress_of("run_1", 1))
