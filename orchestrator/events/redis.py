"""The event bus of many processes: what one tells travels over a Redis channel to all others.

Nothing that matters is in Redis: a ring says that the database has news, and a share of progress is replaced by the
next. Whoever was cut off looks into the database once it is connected again, and nothing has to be kept or repeated.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from orchestrator.cancellation import cancel_until_done, is_cancelled, is_done_within
from orchestrator.core.progress import ProgressShare
from orchestrator.errors import SettingsError
from orchestrator.events.memory import MemoryEventBus, MemorySubscription
from orchestrator.events.news import channel_of, from_wire, to_wire
from orchestrator.events.outbox import Outbox
from orchestrator.ports import Doorbell

log = structlog.get_logger()

# Of connecting, and of every answer.
ANSWER_TIMEOUT_S: Final = 2.0
# A subscriber hears nothing of a connection that is open at one end only, so it asks when it was quiet for so long.
QUIET_S: Final = 2.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
# Rings that follow each other closely travel together.
SEND_GAP_S: Final = 0.02
# What was told last before the process stops: long for a Redis that answers.
FLUSH_TIMEOUT_S: Final = 0.5


class RedisEventBus:
    """`ports.EventBus` for all processes on one Redis; those in this one are told directly.

    work: rung when bells may have been missed.
    """

    def __init__(self, url: str, *, work: Doorbell) -> None:
        """Raises ValueError for a URL that Redis' client cannot read."""
        self.local = MemoryEventBus()
        # One of the two is set: whether anything comes from other processes.
        self.connected, self.away = asyncio.Event(), asyncio.Event()
        self.away.set()
        self._url = url
        self._channel = channel_of(int(self._client().connection_pool.connection_kwargs.get("db", 0)))
        self._work = work
        self._origin = secrets.token_hex(8)
        self._outbox = Outbox(origin=self._origin, monotonic_s=time.monotonic)
        self._ignored = 0
        self._is_away_told = False
        self._pause_s = FIRST_PAUSE_S

    @property
    def is_connected(self) -> bool:
        return self.connected.is_set()

    @property
    def hears_all(self) -> bool:
        return self.is_connected

    async def ring(self, *ids: str) -> None:
        await self.local.ring(*ids)
        self._outbox.ring(ids)

    async def publish_progress(self, share: ProgressShare) -> None:
        await self.local.publish_progress(share)
        self._outbox.add_share(share)

    def shares(self, run_id: str) -> Sequence[ProgressShare]:
        return self.local.shares(run_id)

    def subscribe(self, *ids: str) -> AbstractAsyncContextManager[MemorySubscription]:
        return self.local.subscribe(*ids)

    async def stay_connected(self) -> None:
        """Connect again and again, for ever."""
        while True:
            reason = await self._converse()
            if not self._is_away_told:
                log.warning("redis is away; news are looked for in the database", reason=reason)
                self._is_away_told = True
            # Not all at once: a Redis that starts has many to let in.
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def flush(self) -> None:
        """Let what was told last reach Redis, if it is there."""
        await is_done_within(FLUSH_TIMEOUT_S if self.is_connected else 0, self._outbox.until_empty())

    async def _converse(self) -> str:
        """Talk over one connection for as long as it lasts; why it ended."""
        reason = ""
        try:
            async with self._client() as client, client.pubsub() as pubsub:
                await self._enter(pubsub)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._listen(pubsub))
                        group.create_task(self._send(client))
                finally:
                    # At once: closing a connection that hangs may take as long as an answer.
                    self.connected.clear()
                    self.away.set()
        except* (RedisError, OSError) as failures:
            reason = str(failures.exceptions[0])
        except* Exception:
            # The top of a background task: whatever fails is told, and tried again after a pause.
            log.exception("talking to redis failed unexpectedly")
        return reason

    def _client(self) -> Redis:
        """Without retries of its own: whoever connects again must know that messages were missed."""
        return Redis.from_url(
            self._url,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    async def _enter(self, pubsub: PubSub) -> None:
        await pubsub.subscribe(self._channel)
        if await pubsub.get_message(timeout=ANSWER_TIMEOUT_S) is None:
            raise TimeoutError("no answer to SUBSCRIBE")
        self.away.clear()
        self.connected.set()
        self._is_away_told = False
        self._pause_s = FIRST_PAUSE_S
        log.info("redis is connected", channel=self._channel)
        # Whatever was told so far, nobody here has heard.
        self.local.ring_all()
        self._work.ring()

    async def _listen(self, pubsub: PubSub) -> None:
        is_asked = False
        while not is_cancelled():
            message = await pubsub.get_message(timeout=QUIET_S)
            if message is not None:
                is_asked = False
                if message["type"] == "message":
                    await self._receive(message["data"])
            elif is_asked:
                raise TimeoutError("no answer to PING")
            else:
                await pubsub.ping()
                is_asked = True

    async def _send(self, client: Redis) -> None:
        while not is_cancelled():
            async with self._outbox.sending() as news:
                await client.publish(self._channel, to_wire(news))
            await asyncio.sleep(SEND_GAP_S)

    async def _receive(self, message: bytes) -> None:
        try:
            news = from_wire(message)
        except msgspec.MsgspecError as exc:
            self._ignore(str(exc))
            return
        if news.origin == self._origin:
            return
        if news.rings_all:
            self.local.ring_all()
        elif news.ids:
            await self.local.ring(*news.ids)
        for share in news.shares:
            await self.local.publish_progress(share)

    def _ignore(self, reason: str) -> None:
        """Tell of the 1st, 2nd, 4th, 8th ... of such messages: they may be many."""
        self._ignored += 1
        if self._ignored & (self._ignored - 1) == 0:
            log.warning("message ignored that is not ours", channel=self._channel, reason=reason, ignored=self._ignored)


@asynccontextmanager
async def open_redis_event_bus(url: str, *, work: Doorbell) -> AsyncIterator[RedisEventBus]:
    """Never fails because of Redis, which may come later. Raises SettingsError for a URL that cannot be read."""
    try:
        bus = RedisEventBus(url, work=work)
    except (ValueError, RedisError) as exc:
        raise SettingsError(f"TRIREEL_REDIS_URL cannot be read: {exc}") from exc
    try:
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(bus.stay_connected(), name="redis-events")
            try:
                yield bus
                await bus.flush()
            finally:
                await cancel_until_done([talking])
    except BaseExceptionGroup as failures:
        # The body's, since talking never ends by itself; it leaves as itself instead of in a group.
        if len(failures.exceptions) == 1:
            raise failures.exceptions[0] from failures.exceptions[0].__cause__
        raise
