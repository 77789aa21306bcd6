"""What the OpenAPI document says beyond the handlers' signatures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import (
    Example,
    License,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    Tag,
)

from orchestrator.formats.format_table import FORMATS
from orchestrator.formats.json_text import ResultDocument
from orchestrator.web.examples import EVENTS
from orchestrator.web.sse import EVENT_STREAM_TYPE, OPENING, encode_event
from orchestrator.web.uploads import FORM_TYPE

# Of the API, not of the package: it changes when /v1 does.
API_VERSION: Final = "1"
BINARY: Final = Schema(
    type=OpenAPIType.STRING, content_media_type="application/octet-stream", description="The bytes of a file."
)

UPLOAD_BODY: Final = RequestBody(
    required=True,
    description="The video: as the body itself, or as the form field `file`.",
    content={
        "application/octet-stream": OpenAPIMediaType(schema=BINARY),
        "video/*": OpenAPIMediaType(schema=BINARY),
        FORM_TYPE: OpenAPIMediaType(
            schema=Schema(type=OpenAPIType.OBJECT, properties={"file": BINARY}, required=["file"])
        ),
    },
)

EVENTS_EXAMPLE: Final = (OPENING + b"".join(map(encode_event, EVENTS))).decode()
ALL_TOLD: Final = {
    204: ResponseSpec(
        None,
        generate_examples=False,
        description="The job is over, and `done` was the last event seen: do not reconnect.",
    )
}
STREAM_BODIES: Final = {
    200: ResponseSpec(
        str,
        generate_examples=False,
        description="Events, replayed after the id given and then live.",
        media_type=EVENT_STREAM_TYPE,
        examples=[Example(summary="A running job", value=EVENTS_EXAMPLE)],
    )
}
DETECTION_BODIES: Final = {
    200: ResponseSpec(
        ResultDocument,
        generate_examples=False,
        description="The detections, streamed in frame order.",
        media_type="application/json",
    )
}


@dataclass
class UploadOperation(Operation):
    """The body is read as a stream, so no parameter of the handler tells Litestar of it."""

    def __post_init__(self) -> None:
        self.request_body = UPLOAD_BODY


@dataclass
class DetectionsOperation(Operation):
    """One answer in several formats, of which Litestar knows how to describe one."""

    def __post_init__(self) -> None:
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse) and answer.content:
            others = [known for known in FORMATS.values() if known.name != "json"]
            answer.content |= {known.media_type: OpenAPIMediaType(schema=BINARY) for known in others}


def build_openapi_config() -> OpenAPIConfig:
    """The document at /schema (JSON) and /schema/openapi.yaml; no page, since Litestar's load theirs from a CDN."""
    return OpenAPIConfig(
        title="Trireel",
        version=API_VERSION,
        summary="Object detection in videos.",
        description=(
            "Upload a video, submit a job, follow its events, ask for its detections.\n\n"
            "Errors are `application/problem+json` with a stable `code`. `WS /v1/jobs/{job_id}/ws` tells the events "
            "of `GET /v1/jobs/{job_id}/events` as JSON messages `{event, id, data}`."
        ),
        license=License(name="AGPL-3.0-or-later", identifier="AGPL-3.0-or-later"),
        tags=[
            Tag(name="videos", description="Files to look into."),
            Tag(name="jobs", description="Requests for detections."),
            Tag(name="results", description="Questions asked of what was found."),
            Tag(name="events", description="Live progress."),
            Tag(name="models", description="What looks."),
            Tag(name="operation", description="For operators and monitors."),
        ],
        use_handler_docstrings=True,
        render_plugins=[JsonRenderPlugin(), YamlRenderPlugin()],
    )
