"""Server-sent events: how events become lines, and where a stream resumes."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Final

import msgspec

from orchestrator.errors import EventIdInvalidError
from orchestrator.following import StreamEvent
from orchestrator.web.streaming import ByteStream, iterating

EVENT_STREAM_TYPE: Final = "text/event-stream"
RETRY_MS: Final = 2000
# Sent at once: proxies and clients then know that the stream is open, however quiet the job is.
OPENING: Final = b"retry: %d\n: open\n\n" % RETRY_MS
# What a stream ends with when the server stops: clients come back spread over so long, not all in one moment.
RETRY_SPREAD_MS: Final = 2000
# A comment, so no event reaches the client's code.
PING: Final = b": ping\n\n"
HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
# What a database counts with; Python itself refuses to read more than 4,300 digits.
LARGEST_ID: Final = 2**63 - 1
ID: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


def last_event_id_of(header: str | None, query: str | None) -> int | None:
    """The id that a client saw last, None if it saw none; the header, which browsers keep up to date, goes first.

    Raises EventIdInvalidError.
    """
    text = (header or query or "").strip()
    if not text:
        return None
    if ID.fullmatch(text) and (last_id := int(text)) <= LARGEST_ID:
        return last_id
    raise EventIdInvalidError("Last-Event-ID must be the id of an event of this stream; leave it out to begin anew")


def event_stream(
    events: AsyncIterator[StreamEvent | None],
    counted: AbstractContextManager[object],
    *,
    is_stopping: Callable[[], bool],
) -> ByteStream:
    """An answer that sends `events` and closes them. counted: entered while it lasts. is_stopping: of the server."""
    return ByteStream(_lines(events, counted, is_stopping), media_type=EVENT_STREAM_TYPE, headers=HEADERS)


def encode_event(event: StreamEvent) -> bytes:
    """One event with its empty line; JSON has no line breaks, so one `data:` line holds it."""
    head = b"" if event.id is None else b"id: %d\n" % event.id
    return b"%sevent: %s\ndata: %s\n\n" % (head, event.kind.encode(), msgspec.json.encode(event.body))


def closing() -> bytes:
    """The last words to one client of a server that stops: when to come back."""
    return b"retry: %d\n\n" % (RETRY_MS + random.randrange(RETRY_SPREAD_MS))


async def _lines(
    events: AsyncIterator[StreamEvent | None], counted: AbstractContextManager[object], is_stopping: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    with counted:
        async with iterating(events) as source:
            yield OPENING
            async for event in source:
                yield PING if event is None else encode_event(event)
            if is_stopping():
                yield closing()
