"""A worker's hearing on a real Redis and a real Celery: what dies, hangs or goes away is made good."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from orchestrator.errors import DoorbellError
from orchestrator.scheduling.celery_program import QUEUE, TASK, build_celery
from orchestrator.scheduling.doorbell import Doorbells, open_doorbells
from orchestrator.worker.hearing import FIRST_RESTART_DELAY_S, SIGN_OUT_TIMEOUT_S, Hearing
from tests.support.listener import orders_of
from tests.support.redis import RedisServer, redis, redis_of_session

__all__ = ["redis", "redis_of_session"]

pytestmark = pytest.mark.needs("redis")

LONG_S: Final = 60.0
WORKER: Final = "worker-1"


@dataclass
class Rung:
    """Counts what the worker was asked to do."""

    times: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self) -> None:
        self.times += 1
        self.changed.set()

    async def once_more(self, ring: Callable[[], Awaitable[object]]) -> None:
        """Ring, and again for as long as nothing comes of it: what was lost is not sent again by itself."""
        before = self.times
        async with asyncio.timeout(LONG_S):
            while self.times == before:
                await ring()
                self.changed.clear()
                try:
                    async with asyncio.timeout(0.2):
                        await self.changed.wait()
                except TimeoutError:
                    continue


@dataclass
class Heard:
    hearing: Hearing
    doorbells: Doorbells
    rung: Rung

    async def is_heard(self) -> None:
        await self.rung.once_more(self.ring_if_there_is_somebody)

    async def ring_if_there_is_somebody(self) -> None:
        """As the API does, which goes on while Redis is away."""
        try:
            await self.doorbells.ring()
        except DoorbellError:
            return


@asynccontextmanager
async def listening(server: RedisServer, *, deaf_after_s: float = LONG_S) -> AsyncIterator[Heard]:
    rung = Rung()
    async with open_doorbells(server.url()) as doorbells, asyncio.TaskGroup() as group:
        hearing = Hearing(
            orders=orders_of(WORKER, server.url()),
            doorbells=doorbells,
            work_until_idle=rung.work,
            deaf_after_s=deaf_after_s,
            sign_every_s=0.1,
        )
        task = group.create_task(hearing.keep_hearing())
        heard = Heard(hearing, doorbells, rung)
        await heard.is_heard()
        yield heard
        task.cancel()


def listener_of(heard: Heard) -> int:
    assert heard.hearing.pid is not None
    return heard.hearing.pid


@pytest.mark.parametrize("hurt", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_listener_that_dies_or_goes_deaf_is_replaced(redis: RedisServer, hurt: signal.Signals) -> None:
    async with listening(redis, deaf_after_s=0.4) as heard:
        first = listener_of(heard)
        os.kill(first, hurt)
        await heard.is_heard()
        assert listener_of(heard) != first
        # Stopped or not, it is gone.
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


async def test_a_listener_that_nobody_rings_is_not_taken_for_deaf(redis: RedisServer) -> None:
    async with listening(redis, deaf_after_s=0.1) as heard:
        first = listener_of(heard)
        for _ in range(3):
            await heard.is_heard()
        assert listener_of(heard) == first


async def test_a_listener_that_cannot_be_started_is_tried_again(redis: RedisServer) -> None:
    async with listening(redis) as heard:
        python, heard.hearing.python = heard.hearing.python, "/nowhere/python"
        os.kill(listener_of(heard), signal.SIGKILL)
        with capture_logs() as logs, pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * FIRST_RESTART_DELAY_S):
                await heard.is_heard()
        assert any("could not be started" in entry.get("reason", "") for entry in logs)
        heard.hearing.python = python
        await heard.is_heard()


async def test_a_redis_that_answers_nothing_holds_no_stop_up(redis: RedisServer) -> None:
    with ExitStack() as stack, capture_logs() as logs:
        async with listening(redis):
            stack.enter_context(redis.stopped())
        # The worker has stopped by now, while Redis is still silent, and long before Redis is taken for lost.
        assert [entry["reason"] for entry in logs if entry["event"] == "worker could not sign out"] == [
            f"Redis was silent for {SIGN_OUT_TIMEOUT_S:g} s"
        ]


async def test_a_redis_that_was_killed_is_used_again(redis: RedisServer) -> None:
    # Celery may connect again by itself, or be deaf from here on (seen with 5.7, after an acknowledgement was lost).
    async with listening(redis, deaf_after_s=1.0) as heard:
        redis.crash()
        try:
            with pytest.raises(DoorbellError):
                await heard.doorbells.workers()
        finally:
            redis.start()
        await heard.is_heard()


async def test_what_is_wiped_out_of_redis_comes_back(redis: RedisServer) -> None:
    # The connections are ended as well, which may leave Celery deaf.
    async with listening(redis, deaf_after_s=1.0) as heard:
        redis.empty()
        await heard.is_heard()


async def test_a_worker_that_stops_is_missed_at_once(redis: RedisServer) -> None:
    async with open_doorbells(redis.url()) as doorbells:
        async with listening(redis) as heard:
            listener = listener_of(heard)
            assert await doorbells.workers() == 1
        assert await doorbells.workers() == 0
        with pytest.raises(ProcessLookupError):
            os.kill(listener, 0)


async def test_rings_are_json_without_content_and_never_more_than_there_are_workers(redis: RedisServer) -> None:
    async with open_doorbells(redis.url()) as doorbells:
        assert await doorbells.ring() == 0
        for worker in "abc":
            await doorbells.sign_in(worker)
        assert [await doorbells.ring() for _ in range(3)] == [3, 0, 0]
        assert await doorbells.waiting() == 3
        with redis.client() as client:
            message = json.loads(client.lindex(QUEUE, 0))
        assert message["content-type"] == "application/json"


class Evil:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


async def test_a_message_that_is_no_json_is_never_read(redis: RedisServer, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    async with listening(redis) as heard:
        celery = build_celery(redis.url())
        celery.send_task(TASK, args=[Evil(folder)], queue=QUEUE, serializer="pickle")
        celery.close()
        # What comes behind it in the queue is heard.
        await heard.is_heard()
    assert not folder.exists()
    pickle.loads(pickle.dumps(Evil(folder)))
    assert folder.exists(), "it would have done no harm"


async def test_without_redis_every_call_says_so(redis: RedisServer) -> None:
    async with open_doorbells(redis.url()) as doorbells:
        await doorbells.sign_in("a")
        redis.crash()
        try:
            for call in (doorbells.ring, doorbells.workers, doorbells.waiting):
                with pytest.raises(DoorbellError):
                    await call()
        finally:
            redis.start()
        assert await doorbells.workers() == 0
