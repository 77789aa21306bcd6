"""The client for programs with an event loop: `Client`, with `await`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
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


class AsyncClient:
    """`Client` for one event loop, call for call and error for error; close it, or use it in an `async with`."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        self.url = checked_url(url)
        direct = dict.fromkeys(DIRECT_HOSTS)
        self._http = httpx.AsyncClient(base_url=self.url, mounts=direct, verify=is_encrypted(self.url))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def upload(
        self, path: Path | str, *, file_name: str | None = None, on_progress: OnProgress | None = None
    ) -> VideoAnswer:
        """Send a video file, read from disk piece by piece. file_name: what to call it there, unless its own."""
        with await asyncio.to_thread(_open, Path(path)) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            meter = ProgressMeter(on_progress, total_bytes=size_bytes)
            return await self._ask(calls.upload(file_name or Path(path).name, size_bytes), body=_pieces(file, meter))

    async def video(self, video_id: str) -> VideoAnswer:
        return await self._ask(calls.video(video_id))

    async def videos(self, *, limit: int | None = None, cursor: str | None = None) -> PageAnswer[VideoAnswer]:
        return await self._ask(calls.videos(limit=limit, cursor=cursor))

    async def delete_video(self, video_id: str) -> None:
        await self._ask(calls.delete_video(video_id))

    async def submit(self, job: SubmitJob, *, idempotency_key: str | None = None) -> JobAnswer:
        """Answers at once; `follow` tells how it goes.

        A submit whose connection broke is sent again by itself and makes no second job. idempotency_key: for sending it
        again later, from another process too; 1 to 255 visible ASCII characters.
        """
        call, resending = calls.submit(job, idempotency_key=idempotency_key), Resending()
        while True:
            try:
                return await self._ask(call)
            except ServerUnreachableError as exc:
                await asyncio.sleep(resending.lost(exc))

    async def job(self, job_id: str) -> JobAnswer:
        return await self._ask(calls.job(job_id))

    async def jobs(
        self,
        *,
        states: Sequence[str] = (),
        model: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> PageAnswer[JobAnswer]:
        return await self._ask(calls.jobs(states=states, model=model, limit=limit, cursor=cursor))

    async def cancel(self, job_id: str) -> JobAnswer:
        return await self._ask(calls.cancel(job_id))

    async def retry(self, job_id: str) -> JobAnswer:
        """Queue a job that failed or was cancelled again; it goes on where it stopped."""
        return await self._ask(calls.retry(job_id))

    async def delete(self, job_id: str) -> None:
        await self._ask(calls.delete_job(job_id))

    async def models(self) -> tuple[ModelAnswer, ...]:
        return (await self._ask(calls.models())).items

    async def model(self, name: str) -> ModelAnswer:
        return await self._ask(calls.model(name))

    async def limits(self) -> LimitsAnswer:
        return await self._ask(calls.limits())

    async def readiness(self) -> ReadinessAnswer:
        """Also while the server is not ready; the answer says why."""
        return await self._ask(calls.readiness())

    async def timeline(self, job_id: str, *, bucket_s: float, view: ViewQuery = JOBS_OWN_VIEW) -> TimelineAnswer:
        return await self._ask(calls.timeline(job_id, view, bucket_s=bucket_s))

    async def follow(
        self,
        job_id: str,
        *,
        with_boxes: bool = False,
        last_event_id: int | None = None,
        max_outage_s: float = MAX_OUTAGE_S,
    ) -> AsyncGenerator[JobEvent, None]:
        """The job's events, over as many connections as it takes, until `done` has come.

        last_event_id: goes on after it. max_outage_s: how long the server may be away once it has answered.
        """
        stream = JobStream(last_event_id=last_event_id, max_outage_s=max_outage_s, now=time.monotonic)
        while not stream.is_over:
            loss: TrireelError | None = None
            try:
                async with aclosing(self._events(job_id, stream, with_boxes=with_boxes)) as events:
                    async for event in events:
                        yield event
            except TrireelError as exc:
                loss = exc
            if not stream.is_over:
                await asyncio.sleep(stream.lost(loss))

    async def _events(self, job_id: str, stream: JobStream, *, with_boxes: bool) -> AsyncGenerator[JobEvent, None]:
        """Those of one connection."""
        headers = stream.request_headers()
        call = calls.events(job_id, with_boxes=with_boxes, headers=headers, silence_s=SILENCE_S)
        async with self._opened(call) as response:
            stream.opened(response.status_code, response.headers.get("Content-Type", ""))
            async for chunk in response.aiter_bytes():
                for event in stream.feed(chunk):
                    yield event
                if stream.is_over:
                    return

    async def detections(
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
        async with self._opened(
            calls.detections(job_id, view, file_format=file_format, frames=frames, follow=follow)
        ) as response:
            async for piece in response.aiter_bytes():
                written_bytes += await asyncio.to_thread(out.write, piece)
                if follow:
                    await asyncio.to_thread(out.flush)
        return written_bytes

    async def frames(
        self,
        job_id: str,
        *,
        view: ViewQuery = JOBS_OWN_VIEW,
        frames: FrameRange = ALL_FRAMES,
        follow: bool = False,
    ) -> AsyncGenerator[FrameAnswer, None]:
        """A view frame by frame, frames without detections included."""
        lines = FrameLines()
        async with self._opened(
            calls.detections(job_id, view, file_format="ndjson", frames=frames, follow=follow)
        ) as response:
            async for piece in response.aiter_bytes():
                for frame in lines.feed(piece):
                    yield frame

    async def _ask(self, call: Call[Result], *, body: AsyncIterator[bytes] | None = None) -> Result:
        with connection_errors(self.url):
            response = await self._http.send(build_request(self._http, call, body=body))
        if not is_answer(call, response.status_code):
            raise problem_of(response.status_code, response.content, url=self.url)
        return call.decode(response.content)

    @asynccontextmanager
    async def _opened(self, call: Call[None]) -> AsyncIterator[httpx.Response]:
        with connection_errors(self.url):
            response = await self._http.send(build_request(self._http, call), stream=True)
            try:
                if not is_answer(call, response.status_code):
                    raise problem_of(response.status_code, await response.aread(), url=self.url)
                yield response
            finally:
                await response.aclose()


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


async def _pieces(file: BinaryIO, meter: ProgressMeter) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece
        meter.sent(len(piece))
