"""A small server that answers as the orchestrator does, over real HTTP, and whose connections break when told to.

It keeps what was sent to it, and knows one model. What a job does is told beforehand, as its list of events.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Final
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.api_documents import (
    CLASS_NAMES,
    LIMITS,
    MODEL,
    Json,
    Log,
    job_json,
    model_json,
    over,
    video_json,
    whole_life,
)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class FakeApi:
    """url: where it listens. cuts: after how many bytes the next event streams break, in turn; then none does.

    lost_answers: how many of the next submits are taken and then not answered. keys: with the jobs they made.

    events: by job id; without `done` among them a stream stays open until the server stops. retry_ms: told to clients.
    """

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    videos: dict[str, Json] = field(default_factory=dict)
    jobs: dict[str, Json] = field(default_factory=dict)
    events: dict[str, list[Log]] = field(default_factory=dict)
    ends_as: str = "succeeded"
    cuts: list[int] = field(default_factory=list)
    lost_answers: int = 0
    keys: dict[str, Json] = field(default_factory=dict)
    models: list[Json] = field(default_factory=lambda: [model_json(MODEL)])
    frames: list[Json] = field(default_factory=list)
    is_ready: bool = True
    max_upload_bytes: int = 10**9
    retry_ms: int = 1
    is_streaming: threading.Event = field(default_factory=threading.Event)
    is_stopping: threading.Event = field(default_factory=threading.Event)

    def add_job(self, video_id: str, *, state: str = "queued") -> Json:
        job_id = f"job_{len(self.jobs)}"
        video = self.videos.setdefault(video_id, video_json(video_id, "clip.mp4", 3))
        self.jobs[job_id] = job_json(job_id, video, state)
        self.events.setdefault(job_id, whole_life(job_id, self.ends_as))
        return self.jobs[job_id]


class RefusalError(Exception):
    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


@contextmanager
def fake_api() -> Iterator[FakeApi]:
    api = FakeApi()

    class Handler(_Handler):
        fake = api

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="fake-api")
    thread.start()
    try:
        yield api
    finally:
        api.is_stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    fake: ClassVar[FakeApi]
    protocol_version = "HTTP/1.1"
    # Connections kept alive by a client that is still there must not hold up the end.
    timeout = 5

    def log_message(self, format: str, *args: object) -> None:  # the base class's name
        """Nothing: tests read `requests`."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            body = self._body()
            request = Request(self.command, unquote(parts.path), query, dict(self.headers.items()), body)
            self.fake.requests.append(request)
            for method, pattern, answer in ROUTES:
                if method == self.command and (match := re.fullmatch(pattern, request.path)):
                    answer(self, request, *match.groups())
                    return
            raise RefusalError(404, "not_found", f"there is no {request.path}")
        except RefusalError as exc:
            problem = {"type": "about:blank", "status": exc.status, "code": exc.code, "detail": exc.detail}
            self.send(exc.status, json.dumps(problem).encode(), "application/problem+json")

    def _body(self) -> bytes:
        size_bytes = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size_bytes)
        if size_bytes > self.fake.max_upload_bytes:
            raise RefusalError(413, "upload_too_large", "the file is larger than the limit")
        return body

    def send(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status: int, document: object) -> None:
        self.send(status, json.dumps(document).encode())

    def send_stream(self, pieces: Iterator[bytes], content_type: str, *, cut: int | None) -> None:
        """Chunked. cut: break the connection after so many bytes of the stream, without its end."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        for piece in pieces:
            sent = piece if cut is None else piece[:cut]
            if sent:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
            if cut is not None:
                cut -= len(sent)
                if cut == 0:
                    return
        self.wfile.write(b"0\r\n\r\n")

    def found(self, things: dict[str, Json], thing_id: str, code: str) -> Json:
        if thing_id not in things:
            raise RefusalError(404, code, f"there is no {thing_id}")
        return things[thing_id]


def upload_video(handler: _Handler, request: Request) -> None:
    if not request.body:
        raise RefusalError(400, "upload_empty", "the file is empty")
    video_id = f"vid_{len(handler.fake.videos)}"
    video = video_json(video_id, request.query["filename"], len(request.body))
    handler.fake.videos[video_id] = video
    handler.send_json(201, video)


def get_video(handler: _Handler, request: Request, video_id: str) -> None:
    handler.send_json(200, handler.found(handler.fake.videos, video_id, "video_not_found"))


def list_videos(handler: _Handler, request: Request) -> None:
    handler.send_json(200, {"items": list(handler.fake.videos.values()), "next_cursor": None})


def delete_video(handler: _Handler, request: Request, video_id: str) -> None:
    handler.found(handler.fake.videos, video_id, "video_not_found")
    del handler.fake.videos[video_id]
    handler.send(204, b"")


def submit_job(handler: _Handler, request: Request) -> None:
    order = json.loads(request.body)
    if order["model"].partition(":")[0] not in [model["name"] for model in handler.fake.models]:
        raise RefusalError(404, "model_not_found", f"there is no model {order['model']}")
    handler.found(handler.fake.videos, order["video_id"], "video_not_found")
    key = request.headers["Idempotency-Key"]
    if key not in handler.fake.keys:
        handler.fake.keys[key] = handler.fake.add_job(order["video_id"])
    if handler.fake.lost_answers:
        handler.fake.lost_answers -= 1
        handler.close_connection = True
        return
    handler.send_json(202, handler.fake.keys[key])


def get_job(handler: _Handler, request: Request, job_id: str) -> None:
    handler.send_json(200, handler.found(handler.fake.jobs, job_id, "job_not_found"))


def list_jobs(handler: _Handler, request: Request) -> None:
    states = request.query.get("state", "").split(",") if "state" in request.query else None
    jobs = [job for job in handler.fake.jobs.values() if states is None or job["state"] in states]
    limit = int(request.query.get("limit", 50))
    handler.send_json(200, {"items": jobs[:limit], "next_cursor": "more" if len(jobs) > limit else None})


def cancel_job(handler: _Handler, request: Request, job_id: str) -> None:
    job = handler.found(handler.fake.jobs, job_id, "job_not_found")
    if not job["is_terminal"]:
        job.update(state="cancelled", is_terminal=True)
    handler.send_json(200, job)


def retry_job(handler: _Handler, request: Request, job_id: str) -> None:
    job = handler.found(handler.fake.jobs, job_id, "job_not_found")
    if job["state"] not in ("failed", "cancelled"):
        raise RefusalError(409, "state_conflict", f"job {job_id} is {job['state']}")
    job.update(state="queued", is_terminal=False, attempt=job["attempt"] + 1)
    handler.send_json(202, job)


def delete_job(handler: _Handler, request: Request, job_id: str) -> None:
    handler.found(handler.fake.jobs, job_id, "job_not_found")
    del handler.fake.jobs[job_id]
    handler.send(204, b"")


def stream_events(handler: _Handler, request: Request, job_id: str) -> None:
    fake = handler.fake
    handler.found(fake.jobs, job_id, "job_not_found")
    last_id = int(request.headers.get("Last-Event-ID", 0))
    log = [event for event in fake.events[job_id] if event.id is None or event.id > last_id]
    if last_id and not any(event.kind == "done" for event in log) and fake.jobs[job_id]["is_terminal"]:
        handler.send_response(204)
        handler.end_headers()
        return
    cut = fake.cuts.pop(0) if fake.cuts else None
    handler.send_stream(_told(fake, job_id, log), "text/event-stream; charset=utf-8", cut=cut)


def _told(fake: FakeApi, job_id: str, log: Sequence[Log]) -> Iterator[bytes]:
    yield b"retry: %d\n\n: ping\n\n" % fake.retry_ms
    for event in log:
        if event.kind == "done":
            fake.jobs[job_id] = over(fake.jobs[job_id], event.body)
        id_line = f"id: {event.id}\n" if event.id is not None else ""
        yield f"event: {event.kind}\n{id_line}data: {json.dumps(event.body)}\n\n".encode()
        if event.kind == "done":
            return
    fake.is_streaming.set()
    fake.is_stopping.wait()


def send_detections(handler: _Handler, request: Request, job_id: str) -> None:
    handler.found(handler.fake.jobs, job_id, "job_not_found")
    if float(request.query.get("conf", 0.25)) < 0.05:
        raise RefusalError(422, "threshold_not_stored", "conf must be 0.05 or more: weaker boxes were not stored")
    file_format = request.query["format"]
    head = [{"job_id": job_id, "class_names": CLASS_NAMES}]
    lines = [json.dumps(line).encode() + b"\n" for line in (*head, *handler.fake.frames)]
    pieces = lines if file_format == "ndjson" else [f"as {file_format}\n".encode()]
    handler.send_stream(iter(pieces), "application/octet-stream", cut=None)


def send_timeline(handler: _Handler, request: Request, job_id: str) -> None:
    job = handler.found(handler.fake.jobs, job_id, "job_not_found")
    handler.send_json(
        200,
        {
            "job_id": job_id,
            "bucket_s": float(request.query["bucket_s"]),
            "view": job["params"]["view"],
            "classes": CLASS_NAMES,
            "buckets": [{"start_s": 0.0, "frames": 2, "counts": {"car": 3, "person": 0}}],
            "complete_through_frame": 1,
            "is_complete": True,
        },
    )


def list_models(handler: _Handler, request: Request) -> None:
    handler.send_json(200, {"items": handler.fake.models})


def get_model(handler: _Handler, request: Request, name: str) -> None:
    handler.send_json(
        200, handler.found({model["name"]: model for model in handler.fake.models}, name, "model_not_found")
    )


def get_limits(handler: _Handler, request: Request) -> None:
    handler.send_json(200, {**LIMITS, "max_upload_bytes": handler.fake.max_upload_bytes})


def get_readiness(handler: _Handler, request: Request) -> None:
    is_ready = handler.fake.is_ready
    readiness = {
        "is_ready": is_ready,
        "reasons": [] if is_ready else ["Triton is still loading"],
        "transport": "shm",
        "transport_reason": "",
    }
    addresses = {"triton_url": "127.0.0.1:8001", "triton_metrics_url": "http://127.0.0.1:8002/metrics"}
    tritons = [{"url": "127.0.0.1:8001", **readiness}]
    handler.send_json(200 if is_ready else 503, {**readiness, **addresses, "tritons": tritons})


ROUTES: Final[tuple[tuple[str, str, Callable[..., None]], ...]] = (
    ("POST", "/v1/videos", upload_video),
    ("GET", "/v1/videos", list_videos),
    ("GET", "/v1/videos/(.+)", get_video),
    ("DELETE", "/v1/videos/(.+)", delete_video),
    ("POST", "/v1/jobs", submit_job),
    ("GET", "/v1/jobs", list_jobs),
    ("POST", "/v1/jobs/(.+)/cancel", cancel_job),
    ("POST", "/v1/jobs/(.+)/retry", retry_job),
    ("GET", "/v1/jobs/(.+)/events", stream_events),
    ("GET", "/v1/jobs/(.+)/detections", send_detections),
    ("GET", "/v1/jobs/(.+)/timeline", send_timeline),
    ("GET", "/v1/jobs/(.+)", get_job),
    ("DELETE", "/v1/jobs/(.+)", delete_job),
    ("GET", "/v1/models", list_models),
    ("GET", "/v1/models/(.+)", get_model),
    ("GET", "/v1/limits", get_limits),
    ("GET", "/readyz", get_readiness),
)
