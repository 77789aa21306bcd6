"""The API over a process on in-memory parts, called without a socket."""

from __future__ import annotations

from httpx import ASGITransport, AsyncClient, Response

from tests.support.web_process import WebProcess

VIDEO = b"VIDEO" + bytes(100)


def api_over(process: WebProcess) -> AsyncClient:
    transport = ASGITransport(process.app)  # type: ignore[arg-type]  # httpx says less of its messages than Litestar
    return AsyncClient(transport=transport, base_url="http://testserver.local")


async def submitted(client: AsyncClient, **body: object) -> str:
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
