"""Every `EventBus`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from orchestrator.core.progress import MOST_RUNS, ProgressShare
from orchestrator.core.records import Progress
from orchestrator.events.memory import MemoryEventBus
from orchestrator.ports import EventBus, Subscription, Wake

LONG_S: Final = 60.0


@asynccontextmanager
async def open_memory() -> AsyncIterator[EventBus]:
    yield MemoryEventBus()


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    async with open_memory() as opened:
        yield opened


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
