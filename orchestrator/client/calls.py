"""Every call of the API, described once and without I/O; `Client` and `AsyncClient` carry them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec

from orchestrator.client.answers import (
    JobAnswer,
    LimitsAnswer,
    ModelAnswer,
    PageAnswer,
    ReadinessAnswer,
    TimelineAnswer,
    VideoAnswer,
)
from orchestrator.client_errors import AnswerInvalidError
from orchestrator.errors import RequestInvalidError

Result = TypeVar("Result")
QUICK_S: Final = 30.0
# After its last byte an upload is hashed, made durable and opened by a decoder; a view may have to read a long run.
SLOW_S: Final = 300.0
NOT_READY: Final = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Result]):
    """One request and how to read its answer. accepts: error statuses whose body is an answer all the same.

    read_timeout_s: longest silence of the server.
    """

    method: str
    path: str
    decode: Callable[[bytes], Result]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    read_timeout_s: float = QUICK_S
    accepts: frozenset[int] = frozenset()


class ViewQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A view: thresholds and filters on a job's candidates; None takes the job's own. classes: names or ids."""

    conf: float | None = None
    iou: float | None = None
    classes: tuple[str, ...] | None = None
    max_det: int | None = None

    def to_query(self) -> dict[str, str]:
        named = {"conf": self.conf, "iou": self.iou, "max_det": self.max_det}
        query = {name: str(value) for name, value in named.items() if value is not None}
        if self.classes is not None:
            query["classes"] = ",".join(self.classes)
        return query


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Source indices, both inclusive; None is the video's own end."""

    first: int | None = None
    last: int | None = None

    def to_query(self) -> dict[str, str]:
        named = {"from_frame": self.first, "to_frame": self.last}
        return {name: str(value) for name, value in named.items() if value is not None}


class SubmitJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of a submit; fields left out take the server's defaults.

    model: "name" or "name:version". every_nth or fps: which frames. start_s, end_s: of the video.
    """

    video_id: str
    model: str
    every_nth: int | None = None
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    view: ViewQuery = ViewQuery()
    priority: int | None = None
    timeout_s: float | None = None
    tags: tuple[str, ...] = ()


JOBS_OWN_VIEW: Final = ViewQuery()
ALL_FRAMES: Final = FrameRange()


def reading(answer_type: type[Result]) -> Callable[[bytes], Result]:
    """A function that reads a body as `answer_type`, or raises AnswerInvalidError."""

    def read(content: bytes) -> Result:
        try:
            return msgspec.json.decode(content, type=answer_type)
        except msgspec.MsgspecError as exc:
            raise AnswerInvalidError(
                f"the answer cannot be read ({exc}); are client and server of one version?"
            ) from exc

    return read


def nothing(content: bytes) -> None:
    """The answer of calls that have none."""


def upload(file_name: str, size_bytes: int) -> Call[VideoAnswer]:
    """The body is sent by the client, from disk."""
    return Call(
        method="POST",
        path="/v1/videos",
        query={"filename": file_name},
        headers={"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)},
        decode=reading(VideoAnswer),
        read_timeout_s=SLOW_S,
    )


def video(video_id: str) -> Call[VideoAnswer]:
    return Call(method="GET", path=f"/v1/videos/{_id(video_id)}", decode=reading(VideoAnswer))


def videos(*, limit: int | None, cursor: str | None) -> Call[PageAnswer[VideoAnswer]]:
    return Call(method="GET", path="/v1/videos", query=_page(limit, cursor), decode=reading(PageAnswer[VideoAnswer]))


def delete_video(video_id: str) -> Call[None]:
    return Call(method="DELETE", path=f"/v1/videos/{_id(video_id)}", decode=nothing)


def submit(job: SubmitJob, *, idempotency_key: str | None) -> Call[JobAnswer]:
    """Safe to send again: under a key of its own unless one is given. Raises RequestInvalidError for an odd key."""
    key = uuid4().hex if idempotency_key is None else idempotency_key
    if not (key.isascii() and key.isprintable()):
        raise RequestInvalidError("an Idempotency-Key is 1 to 255 visible ASCII characters without spaces")
    return Call(
        method="POST",
        path="/v1/jobs",
        content=msgspec.json.encode(job),
        headers={"Content-Type": "application/json", "Idempotency-Key": key},
        decode=reading(JobAnswer),
    )


def job(job_id: str) -> Call[JobAnswer]:
    return Call(method="GET", path=f"/v1/jobs/{_id(job_id)}", decode=reading(JobAnswer))


def jobs(
    *, states: Sequence[str], model: str | None, limit: int | None, cursor: str | None
) -> Call[PageAnswer[JobAnswer]]:
    query = _page(limit, cursor)
    if states:
        query["state"] = ",".join(states)
    if model is not None:
        query["model"] = model
    return Call(method="GET", path="/v1/jobs", query=query, decode=reading(PageAnswer[JobAnswer]))


def cancel(job_id: str) -> Call[JobAnswer]:
    return Call(method="POST", path=f"/v1/jobs/{_id(job_id)}/cancel", decode=reading(JobAnswer))


def retry(job_id: str) -> Call[JobAnswer]:
    return Call(method="POST", path=f"/v1/jobs/{_id(job_id)}/retry", decode=reading(JobAnswer))


def delete_job(job_id: str) -> Call[None]:
    return Call(method="DELETE", path=f"/v1/jobs/{_id(job_id)}", decode=nothing)


def events(job_id: str, *, with_boxes: bool, headers: Mapping[str, str], silence_s: float) -> Call[None]:
    return Call(
        method="GET",
        path=f"/v1/jobs/{_id(job_id)}/events",
        query={"boxes": "1"} if with_boxes else {},
        headers=headers,
        decode=nothing,
        read_timeout_s=silence_s,
    )


def detections(job_id: str, view: ViewQuery, *, file_format: str, frames: FrameRange, follow: bool) -> Call[None]:
    """The body is a stream of `file_format`; with `follow` it grows until the job is done."""
    query = {"format": file_format, **view.to_query(), **frames.to_query()}
    if follow:
        query["follow"] = "1"
    return Call(
        method="GET",
        path=f"/v1/jobs/{_id(job_id)}/detections",
        query=query,
        decode=nothing,
        read_timeout_s=SLOW_S,
    )


def timeline(job_id: str, view: ViewQuery, *, bucket_s: float) -> Call[TimelineAnswer]:
    return Call(
        method="GET",
        path=f"/v1/jobs/{_id(job_id)}/timeline",
        query={"bucket_s": str(bucket_s), **view.to_query()},
        decode=reading(TimelineAnswer),
        read_timeout_s=SLOW_S,
    )


def models() -> Call[PageAnswer[ModelAnswer]]:
    return Call(method="GET", path="/v1/models", decode=reading(PageAnswer[ModelAnswer]))


def model(name: str) -> Call[ModelAnswer]:
    return Call(method="GET", path=f"/v1/models/{_id(name)}", decode=reading(ModelAnswer))


def limits() -> Call[LimitsAnswer]:
    return Call(method="GET", path="/v1/limits", decode=reading(LimitsAnswer))


def readiness() -> Call[ReadinessAnswer]:
    return Call(method="GET", path="/readyz", decode=reading(ReadinessAnswer), accepts=frozenset({NOT_READY}))


def _id(text: str) -> str:
    """One path segment, whatever somebody typed; a dot is quoted too, since ".." would be taken for a way up."""
    if not text:
        raise RequestInvalidError("an id or a name must not be empty")
    return quote(text, safe="").replace(".", "%2E")


def _page(limit: int | None, cursor: str | None) -> dict[str, str]:
    named = {"limit": limit, "cursor": cursor}
    return {name: str(value) for name, value in named.items() if value is not None}
