"""A TCP proxy whose connections stay open and carry nothing when told so, as through a cable that was pulled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

LOOPBACK: Final = "127.0.0.1"
CHUNK_BYTES: Final = 64 * 1024


class BlackHole:
    def __init__(self, server_port: int) -> None:
        self.port = 0
        self._server_port = server_port
        self._carries = asyncio.Event()
        self._carries.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._are_closed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def swallow(self) -> None:
        """From now on nothing arrives, on either side; what was sent arrives after `carry`."""
        self._carries.clear()

    def carry(self) -> None:
        self._carries.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A connection that nobody listens to is accepted by the kernel, too.
        await self._carries.wait()
        server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._server_port)
        self._writers |= {writer, server_writer}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry(reader, server_writer))
            group.create_task(self._carry(server_reader, writer))
        self._writers -= {writer, server_writer}
        self._are_closed.set()

    async def close(self) -> None:
        """End all connections, and wait for that: asyncio would call their cancelling an error (3.11)."""
        self.carry()
        for writer in self._writers:
            writer.transport.abort()
        while self._writers:
            self._are_closed.clear()
            await self._are_closed.wait()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await self._carries.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def open_black_hole(server_port: int) -> AsyncIterator[BlackHole]:
    """In front of a server of the loopback."""
    proxy = BlackHole(server_port)
    server = await asyncio.start_server(proxy.serve, LOOPBACK, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        async with server:
            yield proxy
    finally:
        await proxy.close()
