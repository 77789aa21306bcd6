"""Bodies that are sent piece by piece, and whose source is closed whatever ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import structlog
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Receive, Send

from orchestrator.errors import NotFoundError, ServerStoppingError

log = structlog.get_logger()

# A client that takes nothing for so long holds a subscription, or a reader of the database, for nobody.
SEND_TIMEOUT_S: Final = 60.0

Item = TypeVar("Item")


class ByteStream(ASGIStreamingResponse):
    """An answer whose body comes from `body`, which is closed at the end, when the client leaves, or on a stop."""

    def __init__(
        self, body: AsyncGenerator[bytes, None], *, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(iterator=body, media_type=media_type, headers=dict(headers or {}), status_code=200)
        self._body = body

    async def send_body(self, send: Send, receive: Receive) -> None:
        async with iterating(self._body) as body, asyncio.TaskGroup() as group:
            sender = group.create_task(_send_all(body, send))
            leaving = group.create_task(_client_left(receive))
            await asyncio.wait((sender, leaving), return_when=asyncio.FIRST_COMPLETED)
            sender.cancel()
            leaving.cancel()


@asynccontextmanager
async def iterating(items: AsyncIterator[Item]) -> AsyncIterator[AsyncIterator[Item]]:
    """Close `items` at the end, if it is something that closes: its `finally` must not wait for the collector."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _send_all(body: AsyncIterator[bytes], send: Send) -> None:
    """Send it to its end. An answer that is left without one is cut off by the server, which a client notices."""
    try:
        async for piece in body:
            if not await _sent(send, piece, is_last=False):
                log.info("answer cut off: the client reads nothing", timeout_s=SEND_TIMEOUT_S)
                return
    except (ServerStoppingError, NotFoundError) as exc:
        # Foreseen: the stop of the server, or of the job by its deletion.
        log.info("answer cut off", code=exc.code, detail=str(exc))
        return
    await _sent(send, b"", is_last=True)


async def _sent(send: Send, piece: bytes, *, is_last: bool) -> bool:
    """Whether the client took `piece` in time."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
    except TimeoutError:
        return False
    return True


async def _client_left(receive: Receive) -> None:
    # Nothing else is expected of somebody who reads a stream.
    while (await receive())["type"] != "http.disconnect":
        continue
