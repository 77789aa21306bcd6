"""Every `EventBus`, in one process and among several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

import pytest

from orchestrator.core.progress import MOST_RUNS, ProgressShare
from orchestrator.core.records import Progress
from orchestrator.events.memory import MemoryEventBus
from orchestrator.events.redis import open_redis_event_bus
from orchestrator.ports import EventBus, Subscription, Wake
from orchestrator.scheduling.local import Bell
from tests.support.redis import RedisServer, redis, redis_of_session

__all__ = ["redis", "redis_of_session"]

LONG_S: Final = 60.0
OpenBus = Callable[[], AbstractAsyncContextManager[EventBus]]


@asynccontextmanager
async def open_memory() -> AsyncIterator[EventBus]:
    yield MemoryEventBus()


def redis_opener(server: RedisServer) -> OpenBus:
    @asynccontextmanager
    async def open_redis_bus() -> AsyncIterator[EventBus]:
        async with open_redis_event_bus(server.url(), work=Bell()) as opened:
            await opened.connected.wait()
            yield opened

    return open_redis_bus


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.needs("redis"))])
def opener(request: pytest.FixtureRequest) -> OpenBus:
    if request.param == "memory":
        return open_memory
    return redis_opener(request.getfixturevalue("redis"))


@pytest.fixture
async def bus(opener: OpenBus) -> AsyncIterator[EventBus]:
    async with opener() as opened:
        yield opened


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.needs("redis"))])
async def two_buses(request: pytest.FixtureRequest) -> AsyncIterator[tuple[EventBus, EventBus]]:
    """Of two processes."""
    open_bus = redis_opener(request.getfixturevalue("redis"))
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(open_bus()), await stack.enter_async_context(open_bus())


def share_of(run_id: str, frames_open: int, *, worker_id: str = "worker_1", committed: int = 0) -> ProgressShare:
    return ProgressShare(
        worker_id=worker_id,
        run_id=run_id,
        frames_total=1000,
        frames_committed=committed,
        frames_open=frames_open,
        fps=10.0,
        video_s_a_frame=0.1,
        told_s=float(committed + frames_open),
    )


def progress_of(run_id: str, frames_done: int, *, workers: int = 1) -> Progress:
    return Progress(
        run_id=run_id,
        frames_done=frames_done,
        frames_total=1000,
        fps=10.0 * workers,
        realtime_factor=1.0 * workers,
        eta_s=(1000 - frames_done) / (10.0 * workers),
        stage="inferring",
    )


async def nothing_more(subscription: Subscription) -> bool:
    return await subscription.next(timeout_s=0) == Wake(rang=False, progress={})


async def test_a_ring_reaches_those_who_named_one_of_its_ids(bus: EventBus) -> None:
    async with bus.subscribe("job_1", "run_1") as near, bus.subscribe("job_2") as far, bus.subscribe() as everything:
        await bus.ring("job_9", "run_1")
        assert (await near.next(timeout_s=LONG_S)).rang
        assert (await everything.next(timeout_s=LONG_S)).rang
        assert await nothing_more(far)


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
        for frames in range(1000):
            await bus.publish_progress(share_of("run_1", frames))
        await bus.publish_progress(share_of("run_2", 5))
        newest = progress_of("run_1", 999)
        assert await one.next(timeout_s=LONG_S) == Wake(rang=False, progress={"run_1": newest})
        wake = await everything.next(timeout_s=LONG_S)
        assert wake == Wake(rang=False, progress={"run_1": newest, "run_2": progress_of("run_2", 5)})


async def test_shares_of_several_processes_are_added_up(bus: EventBus) -> None:
    async with bus.subscribe("run_1") as subscription:
        await bus.publish_progress(share_of("run_1", 20, worker_id="worker_1", committed=100))
        await bus.publish_progress(share_of("run_1", 30, worker_id="worker_2", committed=50))
        wake = await subscription.next(timeout_s=LONG_S)
        assert wake.progress == {"run_1": progress_of("run_1", 150, workers=2)}
        assert {share.worker_id for share in bus.shares("run_1")} == {"worker_1", "worker_2"}


async def test_a_share_that_comes_late_does_not_replace_a_newer_one(bus: EventBus) -> None:
    async with bus.subscribe("run_1") as subscription:
        await bus.publish_progress(share_of("run_1", 30))
        await bus.publish_progress(share_of("run_1", 20))
        wake = await subscription.next(timeout_s=LONG_S)
        assert wake.progress == {"run_1": progress_of("run_1", 30)}


async def test_the_newest_shares_are_known_without_a_subscription(bus: EventBus) -> None:
    assert bus.shares("run_1") == []
    await bus.publish_progress(share_of("run_1", 1))
    await bus.publish_progress(share_of("run_1", 2))
    assert bus.shares("run_1") == [share_of("run_1", 2)]


async def test_a_subscriber_that_never_reads_stays_bounded(bus: EventBus) -> None:
    async with bus.subscribe() as subscription:
        for number in range(3 * MOST_RUNS):
            await bus.ring(f"job_{number}")
            await bus.publish_progress(share_of(f"run_{number}", 1))
        wake = await subscription.next(timeout_s=LONG_S)
        assert wake.rang
        assert [*wake.progress] == [f"run_{number}" for number in range(2 * MOST_RUNS, 3 * MOST_RUNS)]


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
    await bus.publish_progress(share_of("run_1", 1))


async def test_a_bus_that_reaches_everybody_says_so(bus: EventBus) -> None:
    assert bus.hears_all


async def test_a_ring_reaches_the_subscribers_of_another_process(two_buses: tuple[EventBus, EventBus]) -> None:
    here, there = two_buses
    async with there.subscribe("run_1") as near, there.subscribe("job_2") as far, there.subscribe() as everything:
        await here.ring("job_9", "run_1")
        assert (await near.next(timeout_s=LONG_S)).rang
        assert (await everything.next(timeout_s=LONG_S)).rang
        assert await nothing_more(far)


async def test_what_one_tells_oneself_is_told_once(two_buses: tuple[EventBus, EventBus]) -> None:
    here, there = two_buses
    async with here.subscribe("run_1") as own, here.subscribe("answer") as answer, there.subscribe("run_1") as other:
        await here.publish_progress(share_of("run_1", 1))
        await here.ring("run_1")
        assert await own.next(timeout_s=LONG_S) == Wake(rang=True, progress={"run_1": progress_of("run_1", 1)})
        await other.next(timeout_s=LONG_S)
        # All hear the channel in one order: when the answer comes, what it answers has come back, too.
        await there.ring("answer")
        assert (await answer.next(timeout_s=LONG_S)).rang
        assert await nothing_more(own)


async def test_progress_of_another_process_is_added_to_ones_own(two_buses: tuple[EventBus, EventBus]) -> None:
    here, there = two_buses
    async with there.subscribe("run_1") as subscription:
        await there.publish_progress(share_of("run_1", 20, worker_id="there"))
        await subscription.next(timeout_s=LONG_S)
        await here.publish_progress(share_of("run_1", 30, worker_id="here"))
        wake = await subscription.next(timeout_s=LONG_S)
        assert wake.progress == {"run_1": progress_of("run_1", 50, workers=2)}


async def test_of_many_shares_another_process_is_told_the_newest(two_buses: tuple[EventBus, EventBus]) -> None:
    here, there = two_buses
    async with there.subscribe("run_1") as subscription:
        for frames in range(1000):
            await here.publish_progress(share_of("run_1", frames))
        progress: Progress | None = None
        async with asyncio.timeout(LONG_S):
            while progress != progress_of("run_1", 999):
                progress = (await subscription.next(timeout_s=LONG_S)).progress.get("run_1", progress)
        assert await nothing_more(subscription)
