"""Two processes on one database: one works, the other only answers, and tells its followers all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.core.planning import FIRST_SEGMENT_FRAMES
from orchestrator.core.records import JsonValue
from orchestrator.core.rendering import progress_object
from orchestrator.events.opening import open_event_bus
from orchestrator.events.redis import RedisEventBus
from orchestrator.ports import EventBus, Stores
from orchestrator.scheduling.local import Bell, Loop, run_loops
from orchestrator.settings import RedisSettings, StorageSettings
from orchestrator.storage.stores import open_stores
from orchestrator.testing.fake_reader import GeneratedVideo
from orchestrator.testing.memory_stores import memory_stores
from tests.support.following import Follower, following
from tests.support.postgres import PostgresServer, postgres, postgres_of_session
from tests.support.process import SEGMENT_FRAMES, Clock, Process
from tests.support.redis import RedisServer, redis, redis_of_session

__all__ = ["postgres", "postgres_of_session", "redis", "redis_of_session"]

WAIT_S = 30.0
SEGMENTS = 6
TWO_SEGMENTS_FRAMES = FIRST_SEGMENT_FRAMES + SEGMENT_FRAMES
TICK_S = 0.05


@dataclass(slots=True)
class Pair:
    """api: does no work. worker: does it all. Time goes by as they look at their clocks."""

    api: Process
    worker: Process


@asynccontextmanager
async def opened_bus(settings: RedisSettings, stores: Stores) -> AsyncIterator[EventBus]:
    """With its loops at work; connected, where there is a Redis."""
    bell = Bell()
    async with open_event_bus(settings, events=stores.events, is_shared=True, work=bell) as opened:
        loops = [Loop(name, step) for name, step in opened.steps.items()]
        if isinstance(opened.bus, RedisEventBus):
            async with asyncio.timeout(WAIT_S):
                await opened.bus.connected.wait()
        async with run_loops(loops, bell, stop_timeout_s=WAIT_S):
            yield opened.bus


@asynccontextmanager
async def open_pair(settings: RedisSettings, api_stores: Stores, worker_stores: Stores) -> AsyncIterator[Pair]:
    video = GeneratedVideo()
    async with opened_bus(settings, api_stores) as at_api, opened_bus(settings, worker_stores) as at_worker:
        yield Pair(
            api=Process(video=video, stores=api_stores, bus=at_api, clock=Clock(ticks_a_read=TICK_S)),
            worker=Process(video=video, stores=worker_stores, bus=at_worker, clock=Clock(ticks_a_read=TICK_S)),
        )


@pytest.fixture
async def on_postgresql(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Pair]:
    """Without Redis."""
    settings = StorageSettings(database_url=postgres.url(), data_dir=tmp_path, max_upload_bytes=1000)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_stores(settings))
        await first.data_dir.settle()
        second = await stack.enter_async_context(open_stores(settings))
        yield await stack.enter_async_context(open_pair(RedisSettings(url=None), first, second))


@pytest.fixture
async def on_redis(redis: RedisServer) -> AsyncIterator[Pair]:
    stores = memory_stores()
    async with open_pair(RedisSettings(url=redis.url()), stores, stores) as pair:
        yield pair


def durable(follower: Follower) -> list[tuple[str, int | None]]:
    return [(event.kind, event.id) for event in follower.of_kind("state", "segment", "done")]


def assert_each_once(follower: Follower) -> None:
    """Every event of a whole job, in order."""
    kinds = [kind for kind, _ in durable(follower)]
    assert kinds == ["state", "state", *["segment"] * SEGMENTS, "state", "done"]
    ids = [number for _, number in durable(follower)]
    assert ids == sorted(set(ids))


def assert_only_forward(follower: Follower) -> None:
    assert follower.progress == sorted(follower.progress)
    assert follower.progress[-1] == 100


async def shown_progress(pair: Pair, job_id: str) -> Mapping[str, JsonValue]:
    return progress_object((await pair.api.jobs.snapshot(job_id)).progress)


@pytest.mark.needs("postgresql")
async def test_without_redis_a_follower_hears_of_another_process_through_the_database(on_postgresql: Pair) -> None:
    pair = on_postgresql
    job = (await pair.api.submit()).job
    async with following(pair.api.following.job(job.id)) as follower:
        await follower.until(lambda told: bool(told.of_kind("state")))
        await pair.worker.plan()
        await follower.until(lambda told: len(told.of_kind("state")) == 2)
        for number in range(1, SEGMENTS + 1):
            assert await pair.worker.worker.work_once()
            # Progress moves with every segment, too.
            await follower.until(lambda told, number=number: len(told.of_kind("segment")) == number)
            done = follower.of_kind("segment")[-1].body["frames_done"]
            await follower.until(lambda told, done=done: told.progress[-1:] == [done])
        await pair.worker.work_until_idle()
        await follower.until(lambda told: told.is_over)
    assert_each_once(follower)
    assert_only_forward(follower)


@pytest.mark.needs("postgresql")
async def test_without_redis_a_follower_of_all_jobs_sees_states_and_progress_move(on_postgresql: Pair) -> None:
    pair = on_postgresql
    async with following(pair.api.following.all_jobs(last_id=0)) as follower:
        await pair.api.submit()
        await follower.until(lambda told: bool(told.of_kind("state")))
        await pair.worker.plan()
        await pair.worker.worker.work_once()
        await follower.until(lambda told: told.progress[-1:] == [FIRST_SEGMENT_FRAMES])
        await pair.worker.work_until_idle()
        await follower.until(lambda told: bool(told.of_kind("done")))


@pytest.mark.needs("postgresql")
async def test_without_redis_a_deleted_job_ends_the_streams_of_other_processes(on_postgresql: Pair) -> None:
    pair = on_postgresql
    job = (await pair.api.submit()).job
    async with following(pair.worker.following.job(job.id)) as follower:
        await follower.until(lambda told: bool(told.of_kind("state")))
        await pair.api.jobs.remove(job.id)
        await follower.until(lambda told: told.is_over)


@pytest.mark.needs("redis")
async def test_a_follower_that_joins_late_sees_every_segment_once_across_an_outage(
    redis: RedisServer, on_redis: Pair
) -> None:
    pair = on_redis
    job = (await pair.api.submit()).job
    await pair.worker.plan()
    await pair.worker.worker.work_once()
    async with following(pair.api.following.job(job.id)) as follower:
        await follower.until(lambda told: len(told.of_kind("segment")) == 1)
        await pair.worker.worker.work_once()
        await follower.until(lambda told: len(told.of_kind("segment")) == 2)
        redis.crash()
        for number in (3, 4):
            await pair.worker.worker.work_once()
            await follower.until(lambda told, number=number: len(told.of_kind("segment")) == number)
        redis.start()
        await pair.worker.worker.work_once()
        await follower.until(lambda told: len(told.of_kind("segment")) == 5)
        await pair.worker.work_until_idle()
        await follower.until(lambda told: told.is_over)
    assert_each_once(follower)
    assert_only_forward(follower)


@pytest.mark.needs("redis")
async def test_a_server_that_does_no_work_shows_speed_and_time_left(on_redis: Pair) -> None:
    pair = on_redis
    job = (await pair.api.submit()).job
    assert (await shown_progress(pair, job.id))["fps"] is None
    await pair.worker.plan()
    async with following(pair.api.following.job(job.id)) as follower:
        for _ in range(2):
            await pair.worker.worker.work_once()
        await follower.until(lambda told: told.progress[-1:] == [TWO_SEGMENTS_FRAMES])
    shown = await shown_progress(pair, job.id)
    assert shown == progress_object((await pair.worker.jobs.snapshot(job.id)).progress)
    assert shown["frames_done"] == TWO_SEGMENTS_FRAMES
    assert shown["fps"]
    assert shown["eta_s"]
    assert shown["realtime_factor"]


@pytest.mark.needs("redis")
async def test_speeds_of_several_workers_add_up(redis: RedisServer, on_redis: Pair) -> None:
    pair = on_redis
    settings = RedisSettings(url=redis.url())
    job = (await pair.api.submit()).job
    await pair.worker.plan()
    async with opened_bus(settings, pair.api.stores) as bus, following(pair.api.following.job(job.id)) as follower:
        second = Process(stores=pair.api.stores, bus=bus, clock=Clock(ticks_a_read=TICK_S))
        for _ in range(2):
            await pair.worker.worker.work_once()
        await follower.until(lambda told: told.progress[-1:] == [TWO_SEGMENTS_FRAMES])
        alone = (await shown_progress(pair, job.id))["fps"]
        await second.worker.work_once()
        await follower.until(lambda told: told.progress[-1:] == [TWO_SEGMENTS_FRAMES + SEGMENT_FRAMES])
        together = (await shown_progress(pair, job.id))["fps"]
        assert together > alone > 0
        # Whoever is asked says the same.
        assert await shown_progress(pair, job.id) == progress_object((await second.jobs.snapshot(job.id)).progress)


@pytest.mark.needs("redis")
async def test_a_deleted_job_ends_the_streams_of_other_processes(on_redis: Pair) -> None:
    pair = on_redis
    job = (await pair.api.submit()).job
    async with following(pair.worker.following.job(job.id)) as follower:
        await follower.until(lambda told: bool(told.of_kind("state")))
        await pair.api.jobs.remove(job.id)
        await follower.until(lambda told: told.is_over)
