"""Errors as answers: one form for all, stable codes, and nothing of the inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from litestar.testing import AsyncTestClient

from orchestrator import errors
from orchestrator.errors import TrireelError
from orchestrator.web.app import build_app
from orchestrator.web.error_map import STATUS_BY_ERROR, status_of
from tests.support.api import api_over, problem_in, submitted
from tests.support.needs import ROOT
from tests.support.use_cases import VideosInMemory, services_in_memory
from tests.support.world import World


def classes_below(root: type[TrireelError]) -> Iterator[type[TrireelError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes_below(child)


OF_THE_TREE = sorted({cls for cls in classes_below(TrireelError) if cls.__module__ == errors.__name__}, key=str)


async def test_a_route_that_is_not_there_is_a_problem() -> None:
    async with api_over(World()) as client:
        problem = problem_in(await client.get("/v2/nothing"), status=404)
        assert (problem["code"], problem["instance"]) == ("not_found", "/v2/nothing")


async def test_a_method_that_does_not_fit_names_those_that_do() -> None:
    async with api_over(World()) as client:
        answer = await client.put("/v1/jobs", json={})
        assert problem_in(answer, status=405)["code"] == "method_not_allowed"
        assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


async def test_a_body_that_is_no_json_is_malformed() -> None:
    async with api_over(World()) as client:
        for body in (b"{", b"\xff\xfe", b"nonsense"):
            answer = await client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
            assert problem_in(answer, status=400)["code"] == "request_malformed"


async def test_every_wrong_parameter_is_named() -> None:
    async with api_over(World()) as client:
        problem = problem_in(await client.get("/v1/jobs?limit=0"), status=422)
        assert problem["code"] == "request_invalid"
        assert [entry["field"] for entry in problem["errors"]] == ["limit"]  # type: ignore[attr-defined]
        for query in ("limit=101", "limit=many", "state=asleep"):
            assert problem_in(await client.get(f"/v1/jobs?{query}"), status=422)["code"] == "request_invalid"
        assert problem_in(await client.get("/v1/jobs?cursor=forged"), status=422)["code"] == "cursor_invalid"


async def test_a_problem_names_its_job() -> None:
    async with api_over(World()) as client:
        job_id = await submitted(client)
        problem = problem_in(await client.get(f"/v1/jobs/{job_id}/detections?conf=0.01"), status=422)
        assert (problem["code"], problem["job_id"]) == ("threshold_not_stored", job_id)


@dataclass(slots=True)
class BrokenVideos(VideosInMemory):
    async def get(self, video_id: str) -> Any:
        raise ZeroDivisionError("the secret of /data/trireel.db")


async def test_an_unforeseen_error_tells_an_id_and_only_the_log_tells_more() -> None:
    services = services_in_memory(World())
    object.__setattr__(services, "videos", BrokenVideos(World()))
    async with AsyncTestClient(build_app(services)) as client:
        with structlog.testing.capture_logs() as logs:
            answer = await client.get("/v1/videos/x")
    problem = problem_in(answer, status=500)
    assert problem["code"] == "internal_error"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" not in answer.text
    [entry] = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["error_id"] == problem["error_id"]
    assert isinstance(entry["exc_info"], ZeroDivisionError)


async def test_no_browser_takes_an_answer_for_a_page() -> None:
    async with api_over(World()) as client:
        assert (await client.get("/v1/jobs")).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("cls", OF_THE_TREE, ids=lambda cls: cls.__name__)
def test_every_error_has_a_status_that_fits_its_kind(cls: type[TrireelError]) -> None:
    status = status_of(cls)
    assert 400 <= status < 600
    if cls.retryable and cls in STATUS_BY_ERROR:
        assert status >= 500


def test_the_errors_page_lists_every_code_of_the_tree_and_of_the_web_layer() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    of_the_web = {"request_malformed", "method_not_allowed", "body_too_large"}
    assert listed == {cls.code for cls in OF_THE_TREE} | of_the_web


def test_the_errors_page_tells_the_statuses_of_the_table() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    told = {line.split("`")[1]: line.split("|")[2].strip() for line in page.splitlines() if line.startswith("| `")}
    for cls in OF_THE_TREE:
        if told[cls.code] != "-":
            assert told[cls.code] == str(status_of(cls).value), cls.code
