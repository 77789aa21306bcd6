"""A TCP proxy that cuts a connection at a request, such as a COMMIT, before the server has it or after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

CHUNK_BYTES: Final = 64 * 1024


def is_commit(request: bytes) -> bool:
    return b"COMMIT" in request


class Cut(Enum):
    """What becomes of the request."""

    BEFORE = "the server never sees it"
    AFTER = "the server carries it out, and nobody hears of it"


@dataclass(slots=True)
class CuttingProxy:
    """next_cut: used up by the next request that `is_struck`; cuts counts them. is_away: it closes new connections."""

    server_port: int
    is_struck: Callable[[bytes], bool] = is_commit
    port: int = 0
    next_cut: Cut | None = None
    is_away_after_cut: bool = False
    is_away: bool = False
    cuts: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_away:
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        is_cut = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry_requests(reader, server_writer, is_cut))
                group.create_task(self._carry_answers(server_reader, writer, is_cut))
        finally:
            for each in (writer, server_writer):
                each.close()
                with suppress(ConnectionError):
                    await each.wait_closed()

    async def _carry_requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, is_cut: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                if self.next_cut is not None and self.is_struck(data):
                    cut, self.next_cut = self.next_cut, None
                    self.cuts += 1
                    self.is_away = self.is_away_after_cut
                    is_cut.set()
                    if cut is Cut.BEFORE:
                        break
                server.write(data)
                await server.drain()
        server.close()

    async def _carry_answers(
        self, server: asyncio.StreamReader, writer: asyncio.StreamWriter, is_cut: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            # The client asks one thing at a time, so that what comes after the cut is the answer to that request.
            while (data := await server.read(CHUNK_BYTES)) and not is_cut.is_set():
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def open_cutting_proxy(
    server_port: int, is_struck: Callable[[bytes], bool] = is_commit
) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(server_port, is_struck)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
