"""Streams of events: one job's, and all jobs'."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, TypeAlias

from litestar import Controller, get
from litestar.params import HeaderParameter, QueryParameter
from litestar.response.base import ASGIResponse

from orchestrator.bootstrap import Services
from orchestrator.following import StreamEvent
from orchestrator.web.error_map import problems
from orchestrator.web.injected import AllServices
from orchestrator.web.openapi import ALL_TOLD, STREAM_BODIES
from orchestrator.web.path_parameters import JobId
from orchestrator.web.sse import event_stream, last_event_id_of

LastEventHeader: TypeAlias = Annotated[
    str | None,
    HeaderParameter(name="Last-Event-ID", description="The last id seen; browsers send it when they reconnect."),
]
LastEventQuery: TypeAlias = Annotated[
    str | None, QueryParameter(description="The same, where headers cannot be set; the header goes first.")
]


class EventRoutes(Controller):
    path = "/v1"
    tags = ("events",)

    @get(
        "/jobs/{job_id:str}/events",
        operation_id="followJob",
        summary="Follow a job",
        responses={**problems(400, 404, 422), **STREAM_BODIES, **ALL_TOLD},
    )
    async def follow_job(
        self,
        job_id: JobId,
        services: AllServices,
        last_event_header: LastEventHeader = None,
        last_event_id: LastEventQuery = None,
        boxes: Annotated[bool, QueryParameter(description="Segment events carry their detections.")] = False,
    ) -> ASGIResponse:
        """Server-sent events. `state`, `segment` and `done` carry ids and are told once, in order, whenever one joins.

        `progress` is a snapshot without id, at most 5 a second. The stream ends after `done`; who reconnects with the
        id of `done` is answered 204, which tells a browser to stop. A dropped connection changes nothing for the job.
        """
        last_id = last_event_id_of(last_event_header, last_event_id) or 0
        following = services.following
        if await following.is_over(job_id, last_id=last_id):
            return ASGIResponse(status_code=204)
        events = following.job(job_id, last_id=last_id, with_boxes=boxes)
        return _streamed(events, services)

    @get(
        "/events",
        operation_id="followAllJobs",
        summary="Follow all jobs",
        responses={**problems(400, 422), **STREAM_BODIES},
    )
    async def follow_all_jobs(
        self,
        services: AllServices,
        last_event_header: LastEventHeader = None,
        last_event_id: LastEventQuery = None,
    ) -> ASGIResponse:
        """States, ends and progress of every job on one stream, from now on or after the id given; it never ends."""
        last_id = last_event_id_of(last_event_header, last_event_id)
        events = services.following.all_jobs(last_id=last_id)
        return _streamed(events, services)


def _streamed(events: AsyncIterator[StreamEvent | None], services: Services) -> ASGIResponse:
    return event_stream(
        events,
        services.metrics.event_streams.labels("sse").track_inprogress(),
        is_stopping=services.following.stopping.is_set,
    )
