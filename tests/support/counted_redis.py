"""A TCP proxy in front of a Redis that hangs up at the n-th request, before it is there or before it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from threading import Event, Thread
from typing import Any, Final

from tests.support.programs import LOOPBACK

CHUNK_BYTES: Final = 64 * 1024
STRIKE_TIMEOUT_S: Final = 30.0


class HangUp(Enum):
    BEFORE = "Redis never sees it"
    AFTER = "Redis carries it out, and nobody hears of it"


@dataclass(slots=True)
class CountedRedis:
    """Counts requests over all connections; what a client sends at once is one."""

    redis_port: int
    port: int = 0
    _left: int = 0
    _manner: HangUp = HangUp.BEFORE
    _hit: str | None = None
    _struck: Event = field(default_factory=Event)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def strike(self, number: int, manner: HangUp) -> str:
        """Hang up at the `number`-th request from now on; its command, once that has happened."""
        self._struck.clear()
        self._manner, self._left = manner, number
        if not self._struck.wait(STRIKE_TIMEOUT_S):
            raise TimeoutError(f"Redis was not asked {number} times in {STRIKE_TIMEOUT_S:g} s")
        assert self._hit is not None
        return self._hit

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            redis_reader, redis_writer = await asyncio.open_connection(LOOPBACK, self.redis_port)
        except ConnectionError:
            writer.close()
            return
        answers = asyncio.create_task(_carry(redis_reader, writer))
        try:
            await self._carry_requests(reader, redis_writer)
        finally:
            answers.cancel()
            for each in (writer, redis_writer):
                each.close()

    async def _carry_requests(self, reader: asyncio.StreamReader, redis: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while request := await reader.read(CHUNK_BYTES):
                is_struck = self._is_struck(request)
                if is_struck and self._manner is HangUp.BEFORE:
                    return
                redis.write(request)
                await redis.drain()
                if is_struck:
                    return

    def _is_struck(self, request: bytes) -> bool:
        if not self._left:
            return False
        self._left -= 1
        if self._left:
            return False
        # "*3\r\n$7\r\nPUBLISH\r\n...": the third line is the command.
        lines = request.split(b"\r\n", 3)
        self._hit = f"{lines[2].decode() if len(lines) > 2 else 'part of a request'}: {self._manner.value}"
        self._struck.set()
        return True


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
    sink.close()


@contextmanager
def counted_redis(redis_port: int) -> Iterator[CountedRedis]:
    """It serves in a thread of its own."""
    proxy = CountedRedis(redis_port)
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="counted-redis", daemon=True)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(STRIKE_TIMEOUT_S)

    try:
        server = run(asyncio.start_server(proxy.serve, LOOPBACK, 0))
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
        run(_close(server))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    serving = asyncio.all_tasks() - {asyncio.current_task()}
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
