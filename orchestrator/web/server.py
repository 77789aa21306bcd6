"""Serving until a signal says stop, and then ending in order: streams, connections, services."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final

import structlog
import uvicorn
import uvloop

from orchestrator.bootstrap import Services
from orchestrator.errors import SettingsError
from orchestrator.settings import HttpSettings, Settings
from orchestrator.stopping import Stopper
from orchestrator.web.app import build_app

log = structlog.get_logger()

# Of the grace period, for what is still being answered; handing segments back and stopping Triton need the rest.
CONNECTIONS_SHARE: Final = 0.125
# How long handlers that were cancelled get to clean up.
UNWIND_S: Final = 1.0
BACKLOG: Final = 2048
# What a client says on a socket is not read.
MAX_SOCKET_MESSAGE_BYTES: Final = 4096
SOCKET_PING_S: Final = 15.0

OpenServices = Callable[[Settings], AbstractAsyncContextManager[Services]]


class ApiServer(uvicorn.Server):
    """uvicorn, but for its signals: it would wait for followers before it tells anybody to stop, and exit with 143."""

    def __init__(
        self, config: uvicorn.Config, *, end_streams: Callable[[], None], on_listening: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._end_streams = end_streams
        self._on_listening = on_listening

    def stop(self) -> None:
        """Answer what is being answered, then leave `serve`; asked twice, wait for nobody."""
        self._end_streams()
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `serve` of this module listens for them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=UNWIND_S)


def run(settings: Settings, open_services: OpenServices) -> None:
    """`serve`, on a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, open_services))


async def serve(
    settings: Settings, open_services: OpenServices, *, on_listening: Callable[[str], None] | None = None
) -> None:
    """Open the services and serve the API until SIGTERM or SIGINT. on_listening: told the address once it answers.

    Raises SettingsError where the address cannot be had, before anything is started, and what `open_services` raises.
    """

    def tell_address() -> None:
        url = url_of(listener)
        log.info("listening", url=url)
        if on_listening is not None:
            on_listening(url)

    stopper = Stopper()
    with _bound_socket(settings.http) as listener, stopper.listening():
        try:
            async with open_services(settings) as services:
                config = _config(services)
                server = ApiServer(config, end_streams=services.following.stop, on_listening=tell_address)
                stopper.stop = server.stop
                await server.serve(sockets=[listener])
        except asyncio.CancelledError:
            if not stopper.has_cancelled:
                raise
            log.info("stopped while starting")


def url_of(listener: socket.socket) -> str:
    """The address as one would write it in a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _bound_socket(http: HttpSettings) -> Iterator[socket.socket]:
    """Taken before Triton starts, so that a second server on one port ends at once; it does not listen yet."""
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((http.host, http.port))
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise SettingsError(
                f"the API cannot listen on {http.host}:{http.port} ({reason}); set TRIREEL_HOST or TRIREEL_PORT"
            ) from exc
        yield listener


def _config(services: Services) -> uvicorn.Config:
    http = services.settings.http
    return uvicorn.Config(
        build_app(services),
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=MAX_SOCKET_MESSAGE_BYTES,
        ws_ping_interval=SOCKET_PING_S,
        ws_ping_timeout=SOCKET_PING_S,
        lifespan="on",
        backlog=BACKLOG,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        # It would tell, without our fields, what `observing` tells with them.
        log_level="critical",
        timeout_graceful_shutdown=http.stop_timeout_s * CONNECTIONS_SHARE,  # type: ignore[arg-type]  # only waited for
    )
