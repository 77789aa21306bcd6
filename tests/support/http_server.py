"""The real server on a free port of this machine, in the test's own event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.bootstrap import Services
from orchestrator.settings import Settings
from orchestrator.web.server import serve
from tests.support.web_process import WebProcess


@dataclass(frozen=True, slots=True)
class Running:
    """url: without a slash at the end."""

    url: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port


@asynccontextmanager
async def running(process: WebProcess) -> AsyncIterator[Running]:
    """Serve `process` until the end of the block; its work is still stepped by hand."""

    @asynccontextmanager
    async def opened(settings: Settings) -> AsyncIterator[Services]:
        yield process.services

    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve(process.services.settings, opened, on_listening=told.set_result))
        try:
            yield Running(await told)
        finally:
            if not serving.done():
                signal.raise_signal(signal.SIGTERM)
