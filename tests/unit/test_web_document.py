"""The OpenAPI document and docs/api.md, compared with the routes."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from litestar.routes import HTTPRoute, WebSocketRoute

from orchestrator.client.answers import EVENT_BODIES
from orchestrator.client.event_stream import EventStreamParser
from orchestrator.formats.format_table import FORMATS
from orchestrator.formats.json_text import ResultDocument
from orchestrator.web.error_map import Problem
from orchestrator.web.examples import EXAMPLES
from orchestrator.web.job_schemas import JobAnswer, SubmitJob
from orchestrator.web.openapi import EVENTS_EXAMPLE
from orchestrator.web.schemas import VideoAnswer
from tests.support.api import api_over
from tests.support.needs import ROOT
from tests.support.web_process import WebProcess


@pytest.fixture(scope="module")
def process() -> WebProcess:
    return WebProcess()


def calls_of(process: WebProcess) -> set[str]:
    calls = set()
    for route in process.app.routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        if path.startswith("/schema"):
            continue
        if isinstance(route, WebSocketRoute):
            calls.add(f"WS {path}")
        elif isinstance(route, HTTPRoute):
            calls |= {f"{method} {path}" for method in route.methods - {"OPTIONS"}}
    return calls


async def document(process: WebProcess) -> dict[str, Any]:
    async with api_over(process) as client:
        answer = await client.get("/schema")
        assert answer.status_code == 200
        content: dict[str, Any] = answer.json()
        return content


def test_the_api_page_lists_exactly_the_calls_of_the_app(process: WebProcess) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    table = page.split("## Endpoints")[1].split("##")[0]
    assert set(re.findall(r"^\| `([A-Z]+ /\S+)` \|", table, flags=re.MULTILINE)) == calls_of(process)


async def test_the_document_has_every_call_with_an_id_a_description_and_problems(process: WebProcess) -> None:
    paths = (await document(process))["paths"]
    told = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    assert told == {call for call in calls_of(process) if not call.startswith("WS")}
    ids = []
    for operations in paths.values():
        for operation in operations.values():
            ids.append(operation["operationId"])
            assert operation["description"]
            assert "application/problem+json" in operation["responses"]["400"]["content"]
            for status, answer in operation["responses"].items():
                if int(status) >= 400 and operation["operationId"] != "getReadiness":
                    [(media_type, content)] = answer["content"].items()
                    assert media_type == "application/problem+json"
                    assert content["schema"]["$ref"].endswith("/Problem")
    assert len(set(ids)) == len(ids)


async def test_the_document_tells_what_signatures_do_not(process: WebProcess) -> None:
    paths = (await document(process))["paths"]
    upload = paths["/v1/videos"]["post"]["requestBody"]["content"]
    assert set(upload) == {"application/octet-stream", "video/*", "multipart/form-data"}
    detections = paths["/v1/jobs/{job_id}/detections"]["get"]["responses"]["200"]["content"]
    assert set(detections) == {known.media_type for known in FORMATS.values()}
    events = paths["/v1/jobs/{job_id}/events"]["get"]["responses"]
    assert set(events["200"]["content"]) == {"text/event-stream"}
    assert "do not reconnect" in events["204"]["description"]


async def test_every_operation_parameter_schema_and_property_is_described(process: WebProcess) -> None:
    told = await document(process)
    bare = []
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            for part in (operation, *operation.get("parameters", []), *operation["responses"].values()):
                if not part.get("description"):
                    bare.append(f"{method} {path} {part.get('name', '')}")
    for name, schema in told["components"]["schemas"].items():
        fields = {name: schema, **{f"{name}.{key}": field for key, field in schema.get("properties", {}).items()}}
        bare += [key for key, field in fields.items() if not field.get("description")]
    assert bare == []


async def test_the_main_bodies_have_an_example_of_all_that_is_not_null(process: WebProcess) -> None:
    schemas = (await document(process))["components"]["schemas"]
    for struct in (SubmitJob, VideoAnswer, JobAnswer, ResultDocument, Problem):
        [example] = schemas[struct.__name__]["examples"]
        assert set(example) == {name for name, value in EXAMPLES[struct].items() if value is not None}


def test_the_example_of_a_stream_is_what_a_client_reads() -> None:
    parser = EventStreamParser()
    events = list(parser.feed(EVENTS_EXAMPLE.encode()))
    assert {event.kind for event in events} == set(EVENT_BODIES)
    for event in events:
        body, body_type = json.loads(event.data), EVENT_BODIES[event.kind]
        msgspec.convert(body, body_type)
        left_out = {field.encode_name for field in msgspec.structs.fields(body_type)} - set(body)
        assert left_out <= {"reason", "detections"}


async def test_the_document_describes_what_answers_hold_with_examples(process: WebProcess) -> None:
    schemas = (await document(process))["components"]["schemas"]
    for name in ("VideoAnswer", "JobAnswer", "SubmitJob", "Problem", "ModelVersionAnswer"):
        assert schemas[name]["properties"]
        assert any("examples" in field for field in schemas[name]["properties"].values()), name
    assert schemas["SubmitJob"]["required"] == ["model", "video_id"]


async def test_the_document_is_served_as_yaml_too_and_loads_nothing_from_elsewhere(process: WebProcess) -> None:
    async with api_over(process) as client:
        answer = await client.get("/schema/openapi.yaml")
        assert answer.status_code == 200
        assert "cdn" not in answer.text
