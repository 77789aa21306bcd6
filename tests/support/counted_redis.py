"""A Redis behind a proxy that hangs up at the n-th request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Final

from tests.support.cutting_proxy import Cut, CuttingProxy, open_cutting_proxy
from tests.support.programs import LOOPBACK

STRIKE_TIMEOUT_S: Final = 30.0


@dataclass(slots=True)
class CountedRedis:
    """Counts requests over all connections; what a client sends at once is one."""

    proxy: CuttingProxy | None = None
    _left: int = 0
    _hit: str = ""
    _struck: Event = field(default_factory=Event)

    @property
    def url(self) -> str:
        assert self.proxy is not None
        return f"redis://{LOOPBACK}:{self.proxy.port}/0"

    def strike(self, number: int, cut: Cut) -> str:
        """Hang up at the `number`-th request from now on; its command, once that has happened."""
        assert self.proxy is not None
        self._struck.clear()
        self._left = number
        self.proxy.next_cut = cut
        if not self._struck.wait(STRIKE_TIMEOUT_S):
            raise TimeoutError(f"Redis was not asked {number} times in {STRIKE_TIMEOUT_S:g} s")
        return f"{self._hit}: {cut.value}"

    def is_struck(self, request: bytes) -> bool:
        self._left -= 1
        if self._left:
            return False
        # "*3\r\n$7\r\nPUBLISH\r\n...": the third line is the command.
        lines = request.split(b"\r\n", 3)
        self._hit = lines[2].decode() if len(lines) > 2 else "part of a request"
        # Not before the proxy has done with this request: the next strike is planned as soon as this one is known.
        asyncio.get_running_loop().call_soon(self._struck.set)
        return True


@contextmanager
def counted_redis(redis_port: int) -> Iterator[CountedRedis]:
    """The proxy serves in a thread of its own."""
    counted, is_open, may_close = CountedRedis(), Event(), Event()

    async def serve() -> None:
        async with open_cutting_proxy(redis_port, counted.is_struck) as counted.proxy:
            is_open.set()
            await asyncio.to_thread(may_close.wait)

    thread = Thread(target=lambda: asyncio.run(serve()), name="counted-redis", daemon=True)
    thread.start()
    try:
        assert is_open.wait(STRIKE_TIMEOUT_S)
        yield counted
    finally:
        may_close.set()
        thread.join()
