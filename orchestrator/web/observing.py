"""Counts, times and logs every exchange, those that no route takes included."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from orchestrator.telemetry import Metrics
from orchestrator.web.error_map import CLIENT_LEFT

log = structlog.get_logger()

# Labels come from fixed sets: a client may send any method and any path.
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD: Final = "other"
UNMATCHED: Final = "unmatched"
# As nginx has it: the client closed the connection before there was an answer.
CLIENT_CLOSED: Final = 499
# Cut off by a stop: no answer either, but nothing failed.
SERVER_STOPPED: Final = 503
SERVER_FAILED: Final = 500
QUIET_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
LOGGED_IDS: Final = ("job_id", "video_id")
LOGGED_ID_LENGTH: Final = 64
# Names and labels come from strangers: no browser shall take an answer for a page.
NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")


@dataclass(slots=True)
class Observed:
    """An ASGI app around another. Litestar's own middleware would miss what no route takes."""

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        clear_contextvars()
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            log.info("request cut off: the server stops")
            exchange.is_cut_off = True
            raise
        except Exception as exc:
            # Too late for an answer: raising is how the server learns to break the connection off.
            log.error("answer broken off", exc_info=exc)
            raise
        finally:
            exchange.tell(self.metrics)


def bind_ids(request: Request[Any, Any, Any]) -> None:
    """Have every log line of this exchange name its job or video."""
    asked = request.path_params
    bind_contextvars(**{name: _loggable(asked[name]) for name in LOGGED_IDS if name in asked})


def _loggable(given: str) -> str:
    """What a client gave as an id, without what would break a line or colour a terminal."""
    return "".join(filter(str.isprintable, given))[:LOGGED_ID_LENGTH]


@dataclass(slots=True)
class _Exchange:
    scope: HTTPScope
    receive_next: Receive
    send_on: Send
    begun_s: float = field(default_factory=time.monotonic)
    first_byte_s: float | None = None
    status: int | None = None
    is_cut_off: bool = False

    async def receive(self) -> Any:
        message = await self.receive_next()
        if message["type"] == "http.disconnect":
            self.scope["state"][CLIENT_LEFT] = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.first_byte_s = time.monotonic()
            message["headers"] = [*message["headers"], NO_SNIFFING]
        await self.send_on(message)

    def tell(self, metrics: Metrics) -> None:
        status = self.status or self._status_without_answer()
        method = self.scope["method"] if self.scope["method"] in METHODS else OTHER_METHOD
        route = self.scope.get("path_template") or UNMATCHED
        elapsed_s = (self.first_byte_s or time.monotonic()) - self.begun_s
        metrics.http_requests.labels(method, route, str(status)).inc()
        metrics.http_request_seconds.labels(method, route).observe(elapsed_s)
        tell = log.debug if route in QUIET_ROUTES else log.info
        tell("request answered", method=method, route=route, status=status, elapsed_s=round(elapsed_s, 4))

    def _status_without_answer(self) -> int:
        if self.scope["state"].get(CLIENT_LEFT) is True:
            return CLIENT_CLOSED
        return SERVER_STOPPED if self.is_cut_off else SERVER_FAILED
