"""The bus of several processes on a real Redis that dies, stalls, forgets and throws everybody out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import structlog

from orchestrator.core.progress import MOST_RUNS, ProgressShare
from orchestrator.errors import SettingsError
from orchestrator.events.news import News, channel_of, to_wire
from orchestrator.events.opening import open_event_bus
from orchestrator.events.polling import POLL_S as LOOKS_APART_S
from orchestrator.events.redis import RedisEventBus, open_redis_event_bus
from orchestrator.ports import Subscription, Wake
from orchestrator.scheduling.local import Bell, Loop, run_loops
from orchestrator.settings import RedisSettings
from orchestrator.testing.memory_stores import memory_stores
from tests.support.counted_events import CountedEvents
from tests.support.needs import ROOT
from tests.support.programs import free_ports
from tests.support.redis import RedisServer, redis, redis_of_session

__all__ = ["redis", "redis_of_session"]

pytestmark = pytest.mark.needs("redis")

# Silence of 2 s, an answer that is not given for 2 s, and the longest pause before connecting again.
WAIT_S = 30.0
POLL_S = 0.05
# For what must not wait for anybody: a thousandth of it is taken.
AT_ONCE_S = 1.0


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisEventBus]:
    async with open_redis_event_bus(url, work=Bell()) as bus:
        yield bus


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisEventBus]:
    async with opened(url) as bus:
        await within(bus.connected.wait())
        yield bus


@pytest.fixture
async def here(redis: RedisServer) -> AsyncIterator[RedisEventBus]:
    async with connected(redis.url()) as bus:
        yield bus


@pytest.fixture
async def there(redis: RedisServer) -> AsyncIterator[RedisEventBus]:
    async with connected(redis.url()) as bus:
        yield bus


async def within(wait: Awaitable[object]) -> None:
    async with asyncio.timeout(WAIT_S):
        await wait


async def until_heard(subscription: Subscription, tell: Callable[[], Awaitable[None]]) -> None:
    """Tell again and again until it is heard, as the work does."""
    async with asyncio.timeout(WAIT_S):
        await tell()
        while not (await subscription.next(timeout_s=POLL_S)).rang:
            await tell()


async def assert_news_flow(here: RedisEventBus, there: RedisEventBus) -> None:
    """Both ways."""
    async with here.subscribe("to_here") as at_here, there.subscribe("to_there") as at_there:
        await until_heard(at_there, lambda: here.ring("to_there"))
        await until_heard(at_here, lambda: there.ring("to_here"))


def share_of(run_id: str, frames_open: int) -> ProgressShare:
    return ProgressShare(
        worker_id="worker",
        run_id=run_id,
        frames_total=10_000,
        frames_committed=0,
        frames_open=frames_open,
        fps=10.0,
        video_s_a_frame=None,
        told_s=float(frames_open),
    )


async def test_news_flow_again_after_redis_was_killed_and_restarted(
    redis: RedisServer, here: RedisEventBus, there: RedisEventBus
) -> None:
    async with there.subscribe("job_1") as subscription:
        redis.crash()
        await within(asyncio.gather(here.away.wait(), there.away.wait()))
        assert not here.is_connected
        redis.start()
        await within(asyncio.gather(here.connected.wait(), there.connected.wait()))
        # Connecting rings: something may have been missed.
        assert (await subscription.next(timeout_s=WAIT_S)).rang
        await until_heard(subscription, lambda: here.ring("job_1"))
    await assert_news_flow(here, there)


async def test_what_was_told_without_a_connection_is_told_once_there_is_one(
    redis: RedisServer, there: RedisEventBus
) -> None:
    async with there.subscribe("run_1") as subscription, opened(redis.url()) as here:
        assert not here.is_connected
        await here.ring("run_1")
        await here.publish_progress(share_of("run_1", 1))
        await here.publish_progress(share_of("run_1", 2))
        wake = await subscription.next(timeout_s=WAIT_S)
        assert (wake.rang, [*wake.progress]) == (True, ["run_1"])
        assert there.shares("run_1") == [share_of("run_1", 2)]


async def test_a_process_starts_without_redis_and_finds_it_later(redis: RedisServer) -> None:
    redis.crash()
    async with opened(redis.url()) as here, opened(redis.url()) as there:
        assert not here.hears_all
        async with here.subscribe("job_1") as subscription:
            await here.ring("job_1")
            assert (await subscription.next(timeout_s=WAIT_S)).rang
        redis.start()
        await within(asyncio.gather(here.connected.wait(), there.connected.wait()))
        await assert_news_flow(here, there)


async def test_a_redis_that_forgets_everything_is_nobodys_loss(
    redis: RedisServer, here: RedisEventBus, there: RedisEventBus
) -> None:
    with redis.client() as client:
        client.flushall()
        assert client.keys() == []
    await assert_news_flow(here, there)
    with redis.client() as client:
        assert client.keys() == []
    assert here.is_connected


async def test_news_flow_again_however_often_everybody_is_thrown_out(
    redis: RedisServer, here: RedisEventBus, there: RedisEventBus
) -> None:
    for _ in range(5):
        assert redis.end_connections() >= 2
        await within(asyncio.gather(here.away.wait(), there.away.wait()))
        await within(asyncio.gather(here.connected.wait(), there.connected.wait()))
    await assert_news_flow(here, there)


async def test_five_times_thrown_out_without_a_pause_is_borne_too(
    redis: RedisServer, here: RedisEventBus, there: RedisEventBus
) -> None:
    for _ in range(5):
        redis.end_connections()
    await assert_news_flow(here, there)


async def test_a_redis_that_stands_still_slows_nothing_and_is_noticed(
    redis: RedisServer, here: RedisEventBus, there: RedisEventBus
) -> None:
    with redis.stopped():
        async with asyncio.timeout(AT_ONCE_S):
            for number in range(1000):
                await here.ring(f"job_{number}")
                await here.publish_progress(share_of("run_1", number))
        await within(asyncio.gather(here.away.wait(), there.away.wait()))
        async with asyncio.timeout(AT_ONCE_S):
            for number in range(1000):
                await here.ring(f"job_{number}")
                await here.publish_progress(share_of("run_1", number))
    await within(asyncio.gather(here.connected.wait(), there.connected.wait()))
    await assert_news_flow(here, there)


async def test_a_subscriber_that_never_reads_stays_bounded_whatever_others_tell(
    redis: RedisServer, here: RedisEventBus, there: RedisEventBus
) -> None:
    async with there.subscribe() as idle, there.subscribe("last") as last:
        for number in range(3 * MOST_RUNS):
            await here.publish_progress(share_of(f"run_{number}", 1))
            if number % MOST_RUNS == 0:
                await until_heard(last, lambda: here.ring("last"))
        await until_heard(last, lambda: here.ring("last"))
        async with there.subscribe(f"run_{3 * MOST_RUNS - 1}") as newest:
            while not there.shares(f"run_{3 * MOST_RUNS - 1}"):
                await newest.next(timeout_s=WAIT_S)
        wake = await idle.next(timeout_s=WAIT_S)
    assert wake.rang
    assert 0 < len(wake.progress) <= MOST_RUNS


async def test_what_is_told_last_is_heard_although_the_teller_ends(redis: RedisServer, there: RedisEventBus) -> None:
    async with there.subscribe("job_1") as subscription:
        async with connected(redis.url()) as here:
            await here.ring("job_1")
        assert (await subscription.next(timeout_s=WAIT_S)).rang


@pytest.mark.parametrize(
    "message",
    [b"", b"\xff\xfe", b"[]", b'{"origin": 1}', b'{"origin": "x", "shares": [{"run_id": "r"}]}', b"[" * 100_000],
)
async def test_a_message_that_is_not_ours_is_ignored_with_a_warning(
    redis: RedisServer, here: RedisEventBus, message: bytes
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with here.subscribe("job_1") as subscription:
            for _ in range(5):
                redis.publish(channel_of(0), message)
            redis.publish(channel_of(0), to_wire(News(origin="another", ids=("job_1",))))
            assert await subscription.next(timeout_s=WAIT_S) == Wake(rang=True, progress={})
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["ignored"] for entry in warnings] == [1, 2, 4]
    assert here.is_connected


async def test_installations_with_databases_of_their_own_do_not_hear_each_other(
    redis: RedisServer, here: RedisEventBus
) -> None:
    url = redis.url(database=1)
    async with connected(url) as other, connected(url) as beside_other, AsyncExitStack() as stack:
        at_beside, foreign, own = [
            await stack.enter_async_context(bus.subscribe(name))
            for bus, name in ((beside_other, "job_2"), (here, "job_2"), (here, "job_1"))
        ]
        await other.ring("job_2")
        assert (await at_beside.next(timeout_s=WAIT_S)).rang
        # Published after it: once this is heard here, that would have been.
        redis.publish(channel_of(0), to_wire(News(origin="another", ids=("job_1",))))
        assert (await own.next(timeout_s=WAIT_S)).rang
        assert await foreign.next(timeout_s=0) == Wake(rang=False, progress={})


async def test_a_redis_that_lets_nobody_in_is_away(redis: RedisServer) -> None:
    url = redis.url().replace("redis://", "redis://:wrong@")
    with structlog.testing.capture_logs() as logs:
        async with opened(url) as bus, bus.subscribe("job_1") as subscription:
            async with asyncio.timeout(WAIT_S):
                while not logs:
                    await subscription.next(timeout_s=POLL_S)
            assert not bus.is_connected
            await bus.ring("job_1")
            assert (await subscription.next(timeout_s=WAIT_S)).rang
    assert [(entry["log_level"], "redis is away" in entry["event"]) for entry in logs] == [("warning", True)]
    assert "wrong" not in str(logs)


async def test_errors_of_the_body_leave_as_themselves() -> None:
    (port,) = free_ports(1)
    with pytest.raises(SettingsError, match="mine"):
        async with opened(f"redis://127.0.0.1:{port}/0"):
            raise SettingsError("mine")


async def test_a_url_that_cannot_be_read_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="TRIREEL_REDIS_URL"):
        async with opened("redis://127.0.0.1:6379/0?socket_timeout=soon"):
            pass


async def test_looks_into_the_database_take_over_while_redis_is_away_and_end_afterwards(redis: RedisServer) -> None:
    events, bell = CountedEvents(), Bell()
    async with (
        open_event_bus(RedisSettings(url=redis.url()), events=events, is_shared=True, work=bell) as opened_bus,
        opened_bus.bus.subscribe("job_1") as subscription,
    ):
        assert isinstance(opened_bus.bus, RedisEventBus)
        await within(opened_bus.bus.connected.wait())
        loops = [Loop(name, step) for name, step in opened_bus.steps.items()]
        async with run_loops(loops, bell, stop_timeout_s=WAIT_S):
            await quiet(subscription)
            assert events.looks == 0
            redis.crash()
            # The first look rings, and what is written from then on does.
            assert (await subscription.next(timeout_s=WAIT_S)).rang
            for _ in range(3):
                events.write()
                assert (await subscription.next(timeout_s=WAIT_S)).rang
            redis.start()
            await within(opened_bus.bus.connected.wait())
            await quiet(subscription)
            looks = events.looks
            events.write()
            assert await subscription.next(timeout_s=2 * LOOKS_APART_S) == Wake(rang=False, progress={})
            assert events.looks == looks


async def quiet(subscription: Subscription) -> None:
    """Until nothing came for longer than looks are apart."""
    while (await subscription.next(timeout_s=2 * LOOKS_APART_S)).rang:
        pass


@pytest.mark.parametrize(("is_shared", "steps"), [(False, set()), (True, {"event-poll"})])
@pytest.mark.parametrize("has_redis", [False, True])
async def test_the_opener_gives_each_deployment_its_bus(
    redis: RedisServer, *, has_redis: bool, is_shared: bool, steps: set[str]
) -> None:
    settings = RedisSettings(url=redis.url() if has_redis else None)
    events = memory_stores().events
    async with AsyncExitStack() as stack:
        opening = open_event_bus(settings, events=events, is_shared=is_shared, work=Bell())
        opened_bus = await stack.enter_async_context(opening)
        assert set(opened_bus.steps) == steps
        assert opened_bus.bus.hears_all == (not has_redis and not is_shared)


def test_a_redis_url_without_the_package_names_the_extra_and_the_embedded_bus_does_without() -> None:
    program = """
import asyncio, sys
sys.modules["redis"] = None
from orchestrator.errors import SettingsError
from orchestrator.events.opening import open_event_bus
from orchestrator.events.polling import POLL_S as LOOKS_APART_S
from orchestrator.settings import RedisSettings

async def open_one(url):
    async with open_event_bus(RedisSettings(url=url), events=None, is_shared=False, work=None) as opened:
        await opened.bus.ring("job_1")

asyncio.run(open_one(None))
try:
    asyncio.run(open_one("redis://127.0.0.1:1/0"))
except SettingsError as exc:
    print(exc)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "trireel[scale]" in ran.stdout
