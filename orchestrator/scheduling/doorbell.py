"""The doorbell of a cluster: whoever sees work rings, and workers that are idle come and look.

A ring is a message in one queue of Celery's on Redis. A worker answers one at a time and keeps it for as long as it
finds work, so the others go to those who are idle. The queue is filled up to one message for each living worker: with
the ring that each may be answering that is at most two a worker, however often an API rings. A second API that looks at
the same moment may fill it up as well, for once; what is too many is taken, found to be for nothing, and gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from orchestrator.errors import DoorbellError, SettingsError

if TYPE_CHECKING:
    from celery import Celery
    from redis.asyncio import Redis

log = structlog.get_logger()

# A sorted set: each worker with the Unix time, by Redis's clock, of its last sign of life.
WORKERS: Final = "trireel.workers"
SIGN_OF_LIFE_EVERY_S: Final = 5.0
# After three signs that did not come a worker counts as gone.
GONE_AFTER_S: Final = 15.0


class Doorbells:
    """The queue of rings, and who answers them. Every call raises DoorbellError while Redis is away."""

    def __init__(self, celery: Celery, redis: Redis, thread: ThreadPoolExecutor) -> None:
        self._celery = celery
        self._redis = redis
        self._thread = thread

    async def waiting(self) -> int:
        """Rings that nobody has taken yet."""
        from orchestrator.scheduling.celery_program import QUEUE

        with doorbell_errors():
            return int(await self._redis.llen(QUEUE))

    async def workers(self) -> int:
        """Workers that gave a sign of life of late."""
        with doorbell_errors():
            return int(await self._redis.zcount(WORKERS, await self._now_s() - GONE_AFTER_S, "+inf"))

    async def sign_in(self, worker_id: str) -> None:
        """A sign of life, due every `SIGN_OF_LIFE_EVERY_S`; forgets workers that are gone."""
        with doorbell_errors():
            now_s = await self._now_s()
            await self._redis.zadd(WORKERS, {worker_id: now_s})
            await self._redis.zremrangebyscore(WORKERS, "-inf", now_s - GONE_AFTER_S)

    async def sign_out(self, worker_id: str) -> None:
        with doorbell_errors():
            await self._redis.zrem(WORKERS, worker_id)

    async def ring(self) -> int:
        """Fill the queue up to one ring for each living worker; how many were added."""
        missing = await self.workers() - await self.waiting()
        if missing <= 0:
            return 0
        await asyncio.get_running_loop().run_in_executor(self._thread, self._send, missing)
        return missing

    async def _now_s(self) -> float:
        seconds, microseconds = await self._redis.time()
        return float(seconds + microseconds / 1e6)

    def _send(self, count: int) -> None:
        from orchestrator.scheduling.celery_program import TASK

        with doorbell_errors():
            for _ in range(count):
                # No expiry: it would go by the clocks of two machines, and there are never more rings than workers.
                self._celery.send_task(TASK, retry=False)


@asynccontextmanager
async def open_doorbells(redis_url: str) -> AsyncIterator[Doorbells]:
    """Never fails because Redis is away. Raises SettingsError where the extra `scale` is not installed."""
    try:
        from redis.asyncio import Redis

        from orchestrator.scheduling.celery_program import CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S, build_celery
    except ImportError as exc:
        raise SettingsError(
            f"TRIREEL_REDIS_URL is set, but {exc.name} is not installed; install trireel with the extra `scale`"
        ) from exc
    redis = Redis.from_url(
        redis_url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S, health_check_interval=10
    )
    celery = build_celery(redis_url)
    # Celery sends from the calling thread and waits there for the broker.
    thread = ThreadPoolExecutor(1, thread_name_prefix="doorbell")
    try:
        yield Doorbells(celery, redis, thread)
    finally:
        await redis.aclose()
        await asyncio.to_thread(thread.shutdown)
        await asyncio.to_thread(celery.close)


class Ringer(Protocol):
    async def ring(self) -> int:
        """Raises DoorbellError."""


class RingingWhileWorkWaits:
    """The step of a loop: as long as there is a segment to be had, see to it that idle workers know.

    It runs at every ring of the process' own bell and every second besides, so a message that was lost, or a lease that
    expired with its worker, is made good within a second. is_work_waiting: asks the database.
    """

    def __init__(self, doorbells: Ringer, is_work_waiting: Callable[[], Awaitable[bool]]) -> None:
        self._doorbells = doorbells
        self._is_work_waiting = is_work_waiting
        self._is_away = False

    async def step(self) -> bool:
        if not await self._is_work_waiting():
            return False
        try:
            await self._doorbells.ring()
        except DoorbellError as exc:
            if not self._is_away:
                log.warning("workers cannot be rung, they look by themselves", code=exc.code, reason=str(exc))
            self._is_away = True
            return False
        if self._is_away:
            log.info("workers are rung again")
        self._is_away = False
        return False


@contextmanager
def doorbell_errors() -> Iterator[None]:
    """Redis' and Celery's errors as DoorbellError."""
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OperationalError, OSError) as exc:
        raise DoorbellError(f"Redis: {exc}") from exc
