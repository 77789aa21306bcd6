"""Every doorbell: the one of a process, and the one of a cluster, which Celery carries over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import pytest

from orchestrator.scheduling.doorbell import Doorbells, open_doorbells
from orchestrator.scheduling.local import Bell, Loop, run_loops
from orchestrator.worker.hearing import Hearing
from tests.support.listener import orders_of
from tests.support.redis import RedisServer, redis, redis_of_session

__all__ = ["redis", "redis_of_session"]

LONG_S: Final = 60.0
RINGS: Final = 50


@dataclass
class Ear:
    """Whoever is woken by the bell. may_rest: cleared, it stays busy with what it was woken for."""

    wakes: int = 0
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    may_rest: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_rest.set()

    async def work(self) -> None:
        self.wakes += 1
        self.woken.set()
        await self.may_rest.wait()

    async def until_woken(self) -> None:
        async with asyncio.timeout(LONG_S):
            await self.woken.wait()
        self.woken.clear()


class Bells(Protocol):
    async def ring(self) -> None: ...

    def listening(self, ear: Ear) -> AbstractAsyncContextManager[None]:
        """Inside, `ear` is woken by rings, and has been found ready for them."""


@dataclass
class LocalBells:
    """`scheduling.local`."""

    bell: Bell = field(default_factory=Bell)

    async def ring(self) -> None:
        self.bell.ring()

    @asynccontextmanager
    async def listening(self, ear: Ear) -> AsyncIterator[None]:
        async def look() -> bool:
            await ear.work()
            return False

        async with run_loops([Loop("ear", look)], self.bell, stop_timeout_s=LONG_S, look_again_s=LONG_S):
            # A loop looks once before it listens.
            await ear.until_woken()
            ear.wakes = 0
            yield


@dataclass
class ClusterBells:
    """`scheduling.doorbell` and `worker.hearing`."""

    doorbells: Doorbells
    redis_url: str
    listeners: int = 0

    async def ring(self) -> None:
        await self.doorbells.ring()

    @asynccontextmanager
    async def listening(self, ear: Ear) -> AsyncIterator[None]:
        self.listeners += 1
        orders = orders_of(f"ear-{self.listeners}", self.redis_url)
        hearing = Hearing(orders=orders, doorbells=self.doorbells, work_until_idle=ear.work)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(hearing.keep_hearing())
            await until(lambda: self._are_signed_in(self.listeners))
            # Those who were ready earlier may take all rings before this one has started.
            while not ear.woken.is_set():
                await self.ring()
                await asyncio.sleep(0.01)
            await until(self._is_quiet)
            ear.wakes = 0
            ear.woken.clear()
            yield
            task.cancel()

    async def _are_signed_in(self, count: int) -> bool:
        return await self.doorbells.workers() == count

    async def _is_quiet(self) -> bool:
        return await self.doorbells.waiting() == 0


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG_S):
        while not await is_so():  # noqa: ASYNC110  # another process sets no event
            await asyncio.sleep(0.01)


@pytest.fixture(params=["local", pytest.param("cluster", marks=pytest.mark.needs("redis"))])
async def bells(request: pytest.FixtureRequest) -> AsyncIterator[Bells]:
    if request.param == "local":
        yield LocalBells()
        return
    server: RedisServer = request.getfixturevalue("redis")
    async with open_doorbells(server.url()) as doorbells:
        yield ClusterBells(doorbells, server.url())


async def test_who_listens_is_woken(bells: Bells) -> None:
    ear = Ear()
    async with bells.listening(ear):
        await bells.ring()
        await ear.until_woken()


async def test_everybody_who_is_idle_is_woken(bells: Bells) -> None:
    ears = [Ear(), Ear()]
    async with AsyncExitStack() as stack:
        for ear in ears:
            await stack.enter_async_context(bells.listening(ear))
        for ear in ears:
            ear.woken.clear()
            ear.may_rest.clear()
        await bells.ring()
        await asyncio.gather(*(ear.until_woken() for ear in ears))
        for ear in ears:
            ear.may_rest.set()


async def test_who_is_busy_hears_of_it_afterwards_and_of_many_rings_once(bells: Bells) -> None:
    ear = Ear()
    async with bells.listening(ear):
        ear.may_rest.clear()
        await bells.ring()
        await ear.until_woken()
        for _ in range(RINGS):
            await bells.ring()
        ear.may_rest.set()
        await ear.until_woken()
        # One more ring, to see that nothing of the many is left before it.
        await bells.ring()
        await ear.until_woken()
        assert ear.wakes <= 3
