"""The real server on a free port of this machine, in the test's own event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.bootstrap import Services
from orchestrator.settings import Settings, load_settings
from orchestrator.web.server import serve
from tests.support.use_cases import services_in_memory
from tests.support.world import World


@dataclass(frozen=True, slots=True)
class Running:
    """url: without a slash at the end."""

    url: str
    services: Services

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port


@asynccontextmanager
async def running(world: World, *, quiet_s: float = 15.0) -> AsyncIterator[Running]:
    """Serve `world` until the end of the block."""
    settings = load_settings({"TRIREEL_PORT": "0", "TRIREEL_MAX_UPLOAD_BYTES": str(world.max_upload_bytes)})
    services = services_in_memory(world, settings, quiet_s=quiet_s)

    @asynccontextmanager
    async def given(settings: Settings) -> AsyncIterator[Services]:
        yield services

    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve(settings, given, on_listening=told.set_result))
        try:
            yield Running(await told, services)
        finally:
            if not serving.done():
                signal.raise_signal(signal.SIGTERM)
