"""A server in a process of its own, over in-memory use cases: `python -m tests.support.stand_in_server`.

Prints its address on a line of its own. One job, `job0`, is there and never ends. With the argument `opening` it
never gets further than opening its services.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.bootstrap import Services
from orchestrator.jobs import JobRequest
from orchestrator.settings import Settings, load_settings
from orchestrator.telemetry import configure_logging
from orchestrator.web.server import serve
from tests.support.api import VIDEO
from tests.support.use_cases import services_in_memory
from tests.support.world import World


@asynccontextmanager
async def opened_services(settings: Settings) -> AsyncIterator[Services]:
    services = services_in_memory(World(), settings)
    if "opening" in sys.argv:
        tell("opening")
        await asyncio.Event().wait()
    video = await services.videos.receive(one_chunk(), file_name="a.mp4", owner="local")
    await services.jobs.submit(JobRequest(video_id=video.id, model="yolo11n"), owner="local")
    yield services
    tell("closed")


async def one_chunk() -> AsyncIterator[bytes]:
    yield VIDEO


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    configure_logging("text", "info")
    asyncio.run(serve(load_settings({"TRIREEL_PORT": "0"}), opened_services, on_listening=tell))
