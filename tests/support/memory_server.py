"""A server in a process of its own, on in-memory parts: `python -m tests.support.memory_server`.

Prints its address on a line of its own. One job, `job_1`, is there, and nobody works on it. With the argument
`opening` it never gets further than opening its services.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.bootstrap import Services
from orchestrator.settings import Settings, load_settings
from orchestrator.telemetry import configure_logging
from orchestrator.web.server import serve
from tests.support.web_process import WebProcess


@asynccontextmanager
async def opened_services(settings: Settings) -> AsyncIterator[Services]:
    if "opening" in sys.argv:
        tell("opening")
        await asyncio.Event().wait()
    process = WebProcess()
    await process.submit(model="yolo11n")
    yield process.services
    tell("closed")


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    configure_logging("text", "info")
    asyncio.run(serve(load_settings({"TRIREEL_PORT": "0"}), opened_services, on_listening=tell))
