"""The API over in-memory use cases, called without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from httpx import Response
from litestar import Litestar
from litestar.testing import AsyncTestClient

from orchestrator.web.app import build_app
from tests.support.use_cases import services_in_memory
from tests.support.world import World

VIDEO = b"VIDEO" + bytes(100)


@asynccontextmanager
async def api_over(world: World) -> AsyncIterator[AsyncTestClient[Litestar]]:
    async with AsyncTestClient(build_app(services_in_memory(world))) as client:
        yield client


async def submitted(client: AsyncTestClient[Litestar], **body: object) -> str:
    """Id of a job on a video that is uploaded for it."""
    video_id = (await client.post("/v1/videos", content=VIDEO)).json()["id"]
    answer = await client.post("/v1/jobs", json={"video_id": video_id, "model": "yolo11n", **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def problem_in(answer: Response, *, status: int) -> dict[str, object]:
    """The problem that an answer holds, after a look at its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].partition(";")[0] == "application/problem+json"
    problem: dict[str, object] = answer.json()
    assert {"type", "title", "status", "detail", "code", "retryable", "instance"} <= set(problem)
    assert problem["status"] == status
    assert problem["detail"]
    assert "Traceback" not in answer.text
    return problem
