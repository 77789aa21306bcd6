"""A job's events over a WebSocket: the same events as the SSE stream, one JSON text a message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery

from orchestrator.errors import RequestInvalidError, TrireelError
from orchestrator.following import StreamEvent
from orchestrator.web.error_map import status_of
from orchestrator.web.injected import AllServices
from orchestrator.web.query_check import complaints_about
from orchestrator.web.sse import last_event_id_of
from orchestrator.web.streaming import SEND_TIMEOUT_S, iterating

log = structlog.get_logger()

DONE: Final = "done"
PARAMETERS: Final = ("last_event_id", "boxes")
# Close codes: registered ones (1012: connect again), and 4000 + the HTTP status that the same error has elsewhere.
ALL_TOLD: Final = 1000
SERVICE_RESTART: Final = 1012
POLICY_VIOLATED: Final = 1008
ERROR_BASE: Final = 4000
# What a client says is not read; one that goes on talking is shown the door.
MAX_CLIENT_MESSAGES: Final = 100
MAX_REASON_BYTES: Final = 120


class EventMessage(msgspec.Struct, frozen=True):
    """One message. id: null for progress, which is not replayed."""

    event: str
    id: int | None
    data: object


@dataclass(frozen=True, slots=True)
class Close:
    code: int
    reason: str


@websocket("/v1/jobs/{job_id:str}/ws")
async def follow_job_socket(
    socket: WebSocket[object, object, State],
    job_id: FromPath[str],
    services: AllServices,
    last_event_id: FromQuery[str | None] = None,
    boxes: FromQuery[str | None] = None,
) -> None:
    """Send the job's events until `done`. An unknown job closes with 4404, a bad query with 4422, a stop with 1012."""
    await socket.accept()
    with services.metrics.event_streams.labels("ws").track_inprogress():
        try:
            if complaints := complaints_about(socket.query_params.keys(), PARAMETERS):
                raise RequestInvalidError("{key}: {message}".format_map(complaints[0]))
            last_id = last_event_id_of(None, last_event_id) or 0
            if await services.following.is_over(job_id, last_id=last_id):
                close: Close | None = Close(ALL_TOLD, "the job is over and all is told")
            else:
                events = services.following.job(job_id, last_id=last_id, with_boxes=boxes in ("1", "true"))
                close = await _talk(socket, events)
        except TrireelError as exc:
            close = _close_for(exc)
        if close is not None:
            await socket.close(code=close.code, reason=close.reason)


async def _talk(socket: WebSocket[object, object, State], events: AsyncIterator[StreamEvent | None]) -> Close | None:
    """How to close after sending and listening at once; None where nobody is there any more."""
    async with iterating(events) as source, asyncio.TaskGroup() as group:
        sender = group.create_task(_send_events(socket, source))
        listener = group.create_task(_listen(socket))
        ended, _ = await asyncio.wait((sender, listener), return_when=asyncio.FIRST_COMPLETED)
        sender.cancel()
        listener.cancel()
    return (sender if sender in ended else listener).result()


async def _send_events(
    socket: WebSocket[object, object, State], events: AsyncIterator[StreamEvent | None]
) -> Close | None:
    is_done = False
    try:
        async for event in events:
            # Where SSE needs a comment, the protocol's own ping keeps a quiet socket open.
            if event is None:
                continue
            is_done = event.kind == DONE
            if not await _sent(socket, EventMessage(event.kind, event.id, event.body)):
                return None
    except TrireelError as exc:
        return _close_for(exc)
    return Close(ALL_TOLD, "done") if is_done else Close(SERVICE_RESTART, "the server stops, or the job was deleted")


async def _sent(socket: WebSocket[object, object, State], message: EventMessage) -> bool:
    """Whether the client took `message` in time."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send_data(msgspec.json.encode(message).decode(), mode="text")
    except TimeoutError:
        log.info("socket ended: the client reads nothing", timeout_s=SEND_TIMEOUT_S)
        return False
    except OSError:
        # uvicorn says so when the client left between two messages.
        return False
    return True


async def _listen(socket: WebSocket[object, object, State]) -> Close | None:
    for _ in range(MAX_CLIENT_MESSAGES):
        if (await socket.receive())["type"] == "websocket.disconnect":
            return None
    return Close(POLICY_VIOLATED, "this socket only tells; it takes no messages")


def _close_for(error: TrireelError) -> Close:
    reason = f"{error.code}: {error}".encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    return Close(ERROR_BASE + status_of(type(error)), reason)
