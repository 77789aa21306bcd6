"""The event bus that a process needs, by its settings: in memory, over Redis, and with looks at a shared database."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from orchestrator.errors import SettingsError
from orchestrator.events.memory import MemoryEventBus
from orchestrator.events.polling import EventPoll
from orchestrator.ports import Doorbell, EventBus, EventStore
from orchestrator.settings import RedisSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenEventBus:
    """steps: by name, each to be repeated in a loop of the background for as long as the bus is used."""

    bus: EventBus
    steps: Mapping[str, Callable[[], Awaitable[bool]]]


@asynccontextmanager
async def open_event_bus(
    redis: RedisSettings, *, events: EventStore, is_shared: bool, work: Doorbell
) -> AsyncIterator[OpenEventBus]:
    """is_shared: whether other processes may write to the database. work: the bell of this process.

    Never fails because Redis is away. Raises SettingsError.
    """
    if redis.url is None:
        local = MemoryEventBus(hears_all=not is_shared)
        away = asyncio.Event()
        away.set()
        yield OpenEventBus(bus=local, steps=_steps(events, local, away, is_shared=is_shared, work=work))
        return
    if importlib.util.find_spec("redis") is None:
        raise SettingsError("TRIREEL_REDIS_URL needs the package redis, which comes with the extra: trireel[scale]")
    # Only here: the embedded deployment does without the package.
    from orchestrator.events.redis import open_redis_event_bus

    async with open_redis_event_bus(redis.url, work=work) as bus:
        yield OpenEventBus(bus=bus, steps=_steps(events, bus.local, bus.away, is_shared=is_shared, work=work))


def _steps(
    events: EventStore, local: MemoryEventBus, away: asyncio.Event, *, is_shared: bool, work: Doorbell
) -> Mapping[str, Callable[[], Awaitable[bool]]]:
    if not is_shared:
        return {}
    return {"event-poll": EventPoll(events=events, bus=local, work=work, away=away).step}
