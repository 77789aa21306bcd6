"""The client for programs without an event loop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

import httpx

from orchestrator.client import calls
from orchestrator.client.answers import (
    FrameAnswer,
    JobAnswer,
    JobEvent,
    LimitsAnswer,
    ModelAnswer,
    PageAnswer,
    ReadinessAnswer,
    TimelineAnswer,
    VideoAnswer,
)
from orchestrator.client.calls import ALL_FRAMES, JOBS_OWN_VIEW, Call, FrameRange, SubmitJob, ViewQuery
from orchestrator.client.exchange import (
    DEFAULT_URL,
    DIRECT_HOSTS,
    MAX_OUTAGE_S,
    Resending,
    build_request,
    checked_url,
    connection_errors,
    is_answer,
    is_encrypted,
    problem_of,
)
from orchestrator.client.job_stream import SILENCE_S, JobStream
from orchestrator.client.transfer import PIECE_BYTES, FrameLines, OnProgress, ProgressMeter
from orchestrator.client_errors import ServerUnreachableError
from orchestrator.errors import TrireelError

Result = TypeVar("Result")


class Client:
    """Talks to one server; close it, or use it in a `with`. Not to be shared between threads.

    Every call may raise ApiError (the server refused; code, status, detail), ServerUnreachableError,
    ConnectionLostError and AnswerInvalidError. The constructor raises SettingsError for a bad address.
    """

    def __init__(self, url: str = DEFAULT_URL) -> None:
        self.url = checked_url(url)
        direct = dict.fromkeys(DIRECT_HOSTS)
        self._http = httpx.Client(base_url=self.url, mounts=direct, verify=is_encrypted(self.url))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def upload(
        self, path: Path | str, *, file_name: str | None = None, on_progress: OnProgress | None = None
    ) -> VideoAnswer:
        """Send a video file, read from disk piece by piece. file_name: what to call it there, unless its own."""
        with Path(path).open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            meter = ProgressMeter(on_progress, total_bytes=size_bytes)
            return self._ask(calls.upload(file_name or Path(path).name, size_bytes), body=_pieces(file, meter))

    def video(self, video_id: str) -> VideoAnswer:
        return self._ask(calls.video(video_id))

    def videos(self, *, limit: int | None = None, cursor: str | None = None) -> PageAnswer[VideoAnswer]:
        return self._ask(calls.videos(limit=limit, cursor=cursor))

    def delete_video(self, video_id: str) -> None:
        self._ask(calls.delete_video(video_id))

    def submit(self, job: SubmitJob, *, idempotency_key: str | None = None) -> JobAnswer:
        """Answers at once; `follow` tells how it goes.

        A submit whose connection broke is sent again by itself and makes no second job. idempotency_key: for sending it
        again later, from another process too; 1 to 255 visible ASCII characters.
        """
        call, resending = calls.submit(job, idempotency_key=idempotency_key), Resending()
        while True:
            try:
                return self._ask(call)
            except ServerUnreachableError as exc:
                time.sleep(resending.lost(exc))

    def job(self, job_id: str) -> JobAnswer:
        return self._ask(calls.job(job_id))

    def jobs(
        self,
        *,
        states: Sequence[str] = (),
        model: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> PageAnswer[JobAnswer]:
        return self._ask(calls.jobs(states=states, model=model, limit=limit, cursor=cursor))

    def cancel(self, job_id: str) -> JobAnswer:
        return self._ask(calls.cancel(job_id))

    def retry(self, job_id: str) -> JobAnswer:
        """Queue a job that failed or was cancelled again; it goes on where it stopped."""
        return self._ask(calls.retry(job_id))

    def delete(self, job_id: str) -> None:
        self._ask(calls.delete_job(job_id))

    def models(self) -> tuple[ModelAnswer, ...]:
        return self._ask(calls.models()).items

    def model(self, name: str) -> ModelAnswer:
        return self._ask(calls.model(name))

    def limits(self) -> LimitsAnswer:
        return self._ask(calls.limits())

    def readiness(self) -> ReadinessAnswer:
        """Also while the server is not ready; the answer says why."""
        return self._ask(calls.readiness())

    def timeline(self, job_id: str, *, bucket_s: float, view: ViewQuery = JOBS_OWN_VIEW) -> TimelineAnswer:
        return self._ask(calls.timeline(job_id, view, bucket_s=bucket_s))

    def follow(
        self,
        job_id: str,
        *,
        with_boxes: bool = False,
        last_event_id: int | None = None,
        max_outage_s: float = MAX_OUTAGE_S,
    ) -> Iterator[JobEvent]:
        """The job's events, over as many connections as it takes, until `done` has come.

        last_event_id: goes on after it. max_outage_s: how long the server may be away once it has answered.
        """
        stream = JobStream(last_event_id=last_event_id, max_outage_s=max_outage_s, now=time.monotonic)
        while not stream.is_over:
            loss: TrireelError | None = None
            try:
                yield from self._events(job_id, stream, with_boxes=with_boxes)
            except TrireelError as exc:
                loss = exc
            if not stream.is_over:
                time.sleep(stream.lost(loss))

    def _events(self, job_id: str, stream: JobStream, *, with_boxes: bool) -> Iterator[JobEvent]:
        """Those of one connection."""
        headers = stream.request_headers()
        call = calls.events(job_id, with_boxes=with_boxes, headers=headers, silence_s=SILENCE_S)
        with self._opened(call) as response:
            stream.opened(response.status_code, response.headers.get("Content-Type", ""))
            for chunk in response.iter_bytes():
                yield from stream.feed(chunk)
                if stream.is_over:
                    return

    def detections(
        self,
        job_id: str,
        out: BinaryIO,
        *,
        file_format: str = "ndjson",
        view: ViewQuery = JOBS_OWN_VIEW,
        frames: FrameRange = ALL_FRAMES,
        follow: bool = False,
    ) -> int:
        """Write a view to `out` as it comes and return its bytes. follow: waits for what is not inferred yet."""
        written_bytes = 0
        with self._opened(
            calls.detections(job_id, view, file_format=file_format, frames=frames, follow=follow)
        ) as response:
            for piece in response.iter_bytes():
                written_bytes += out.write(piece)
                if follow:
                    out.flush()
        return written_bytes

    def frames(
        self,
        job_id: str,
        *,
        view: ViewQuery = JOBS_OWN_VIEW,
        frames: FrameRange = ALL_FRAMES,
        follow: bool = False,
    ) -> Iterator[FrameAnswer]:
        """A view frame by frame, frames without detections included."""
        lines = FrameLines()
        with self._opened(
            calls.detections(job_id, view, file_format="ndjson", frames=frames, follow=follow)
        ) as response:
            for piece in response.iter_bytes():
                yield from lines.feed(piece)

    def _ask(self, call: Call[Result], *, body: Iterator[bytes] | None = None) -> Result:
        with connection_errors(self.url):
            response = self._http.send(build_request(self._http, call, body=body))
        if not is_answer(call, response.status_code):
            raise problem_of(response.status_code, response.content, url=self.url)
        return call.decode(response.content)

    @contextmanager
    def _opened(self, call: Call[None]) -> Iterator[httpx.Response]:
        with connection_errors(self.url):
            response = self._http.send(build_request(self._http, call), stream=True)
            try:
                if not is_answer(call, response.status_code):
                    raise problem_of(response.status_code, response.read(), url=self.url)
                yield response
            finally:
                response.close()


def _pieces(file: BinaryIO, meter: ProgressMeter) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece
        meter.sent(len(piece))
