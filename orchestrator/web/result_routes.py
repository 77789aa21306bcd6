"""Views of a job's candidates: detections in several formats, and counts over time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Final, TypeAlias

from litestar import Controller, get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter, SkipValidation
from litestar.response.base import ASGIResponse

from orchestrator.formats.format_table import FORMATS, Format, format_named
from orchestrator.results import DetectionBlock, ResultHeader, ViewRequest
from orchestrator.web.error_map import problems
from orchestrator.web.injected import ResultsCase
from orchestrator.web.openapi import DETECTION_BODIES, DetectionsOperation
from orchestrator.web.paging import words_of
from orchestrator.web.path_parameters import JobId
from orchestrator.web.schemas import TimelineAnswer
from orchestrator.web.streaming import ByteStream, iterating

# No video has more frames: what the database counts them with.
LAST_FRAME: Final = 2**31 - 1
DEFAULT_BUCKET_S: Final = 1.0
# Shown by a browser; the others are files to keep.
SHOWN_FORMATS: Final = frozenset({"json", "ndjson"})

FrameNumber: TypeAlias = Annotated[int | None, QueryParameter(le=LAST_FRAME, description="Source frame, inclusive.")]


def view_of_query(
    conf: Annotated[float | None, QueryParameter(description="Boxes of at least this confidence.")] = None,
    iou: Annotated[
        float | None, QueryParameter(description="Stricter than the boxes were stored with: a second suppression.")
    ] = None,
    classes: Annotated[
        list[str] | None, QueryParameter(description="Only these, by name or id; repeated, or with commas.")
    ] = None,
    max_det: Annotated[int | None, QueryParameter(description="Most boxes a frame, 1 to 300.")] = None,
) -> ViewRequest:
    """What a request asks in place of the job's own view."""
    return ViewRequest(min_confidence=conf, iou=iou, classes=words_of(classes), max_det=max_det)


View: TypeAlias = NamedDependency[SkipValidation[ViewRequest]]
VIEW_PROVIDER: Final = {"view": Provide(view_of_query, sync_to_thread=False)}


class ResultRoutes(Controller):
    path = "/v1/jobs/{job_id:str}"
    tags = ("results",)
    dependencies = VIEW_PROVIDER

    @get(
        "/detections",
        operation_id="getDetections",
        summary="Detections under a view",
        operation_class=DetectionsOperation,
        responses={**problems(400, 404, 422), **DETECTION_BODIES},
    )
    async def get_detections(
        self,
        job_id: JobId,
        results: ResultsCase,
        view: View,
        format_name: Annotated[
            str, QueryParameter(name="format", description=f"One of {', '.join(FORMATS)}.")
        ] = "json",
        from_frame: FrameNumber = None,
        to_frame: FrameNumber = None,
        follow: Annotated[
            bool, QueryParameter(description="Go on until the job has ended, as its frames become known.")
        ] = False,
    ) -> ASGIResponse:
        """In frame order, streamed; while the job works as well as afterwards.

        Left-out thresholds are those of the job. A confidence under the model's floor, or an IoU looser than its
        own, is refused: those boxes were never stored.
        """
        chosen = format_named(format_name)
        header, blocks = await results.open(
            job_id, view, first_frame=from_frame or 0, last_frame=to_frame, follow=follow
        )
        body = _encoded(chosen, header, blocks)
        return ByteStream(body, media_type=chosen.media_type, headers=_download_headers(header, chosen))

    @get("/timeline", operation_id="getTimeline", summary="Counts over time", responses=problems(400, 404, 422))
    async def get_timeline(
        self,
        job_id: JobId,
        results: ResultsCase,
        view: View,
        bucket_s: Annotated[float, QueryParameter(description="Seconds of video a bucket.")] = DEFAULT_BUCKET_S,
    ) -> TimelineAnswer:
        """Detections per class and bucket of time, over the frames known so far."""
        return TimelineAnswer.from_timeline(*await results.timeline(job_id, view, bucket_s=bucket_s))


async def _encoded(
    chosen: Format, header: ResultHeader, blocks: AsyncIterator[DetectionBlock]
) -> AsyncGenerator[bytes, None]:
    async with iterating(blocks) as source:
        async for piece in chosen.encode(header, source):
            yield piece


def _download_headers(header: ResultHeader, chosen: Format) -> dict[str, str]:
    if chosen.name in SHOWN_FORMATS:
        return {}
    return {"Content-Disposition": f'attachment; filename="detections-{header.job.id}{chosen.suffix}"'}
