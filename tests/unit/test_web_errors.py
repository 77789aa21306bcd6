"""Errors as answers: one form for all, stable codes, and nothing of the inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import structlog
from structlog.contextvars import merge_contextvars

from orchestrator import client_errors, errors
from orchestrator.core.records import Video
from orchestrator.errors import TrireelError
from orchestrator.testing.fake_reader import GeneratedVideo
from orchestrator.testing.memory_jobs import MemoryVideoStore
from orchestrator.testing.memory_stores import memory_stores
from orchestrator.web.error_map import STATUS_BY_ERROR, status_of
from tests.support.api import api_over, problem_in, submitted
from tests.support.needs import ROOT
from tests.support.web_process import WebProcess


def classes_below(root: type[TrireelError]) -> Iterator[type[TrireelError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes_below(child)


TREE_MODULES = {errors.__name__, client_errors.__name__}
OF_THE_TREE = sorted({cls for cls in classes_below(TrireelError) if cls.__module__ in TREE_MODULES}, key=str)


@pytest.fixture(scope="module")
def process() -> WebProcess:
    """For requests that change nothing, or nothing that another test looks at."""
    return WebProcess(video=GeneratedVideo(frame_count=4))


async def test_a_route_that_is_not_there_is_a_problem(process: WebProcess) -> None:
    async with api_over(process) as client:
        problem = problem_in(await client.get("/v2/nothing"), status=404)
        assert (problem["code"], problem["instance"]) == ("not_found", "/v2/nothing")


async def test_a_method_that_does_not_fit_names_those_that_do(process: WebProcess) -> None:
    async with api_over(process) as client:
        answer = await client.put("/v1/jobs", json={})
        assert problem_in(answer, status=405)["code"] == "method_not_allowed"
        assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


async def test_a_body_that_is_no_json_is_malformed(process: WebProcess) -> None:
    async with api_over(process) as client:
        for body in (b"{", b"\xff\xfe", b"nonsense", b"[" * 99_999, b'{"view":' * 99_999):
            answer = await client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
            assert problem_in(answer, status=400)["code"] == "request_malformed"


def fields_in(problem: dict[str, object]) -> list[str]:
    """The fields that a problem complains of."""
    errors = problem["errors"]
    assert isinstance(errors, list)
    return [entry["field"] for entry in errors]


async def test_every_wrong_parameter_is_named(process: WebProcess) -> None:
    async with api_over(process) as client:
        problem = problem_in(await client.get("/v1/jobs?limit=0"), status=422)
        assert problem["code"] == "request_invalid"
        assert fields_in(problem) == ["limit"]
        for query in ("limit=101", "limit=many", "state=asleep"):
            assert problem_in(await client.get(f"/v1/jobs?{query}"), status=422)["code"] == "request_invalid"
        assert problem_in(await client.get("/v1/jobs?cursor=forged"), status=422)["code"] == "cursor_invalid"


MISSPELT = ("/v1/jobs?limt=1", "/v1/jobs/x?limt=1", "/v1/jobs/x/detections?conf=0.4&limt=1", "/healthz?limt=1")


@pytest.mark.parametrize("path", MISSPELT)
async def test_a_parameter_that_a_call_does_not_have_is_refused_by_name(process: WebProcess, path: str) -> None:
    async with api_over(process) as client:
        problem = problem_in(await client.get(path), status=422)
    assert problem["code"] == "request_invalid"
    assert fields_in(problem) == ["limt"]
    assert "takes" in str(problem["detail"])


async def test_a_problem_names_its_job(process: WebProcess) -> None:
    async with api_over(process) as client:
        job_id = await submitted(client)
        problem = problem_in(await client.get(f"/v1/jobs/{job_id}/detections?conf=0.01"), status=422)
        assert (problem["code"], problem["job_id"]) == ("threshold_not_stored", job_id)


@pytest.mark.parametrize("path", ["/v1/jobs/x", "/v1/videos/x", "/v1/jobs/x/events", "/v1/models/x", "/nothing"])
async def test_what_is_not_there_is_told_with_what_to_do_instead(process: WebProcess, path: str) -> None:
    async with api_over(process) as client:
        detail = str(problem_in(await client.get(path), status=404)["detail"])
    fact, _, advice = detail.partition("; ")
    assert "GET /" in advice, (fact, advice)


class BrokenVideoStore(MemoryVideoStore):
    async def get(self, video_id: str) -> Video:
        raise ZeroDivisionError("the secret of /data/trireel.db")


async def test_an_unforeseen_error_tells_an_id_and_only_the_log_tells_more() -> None:
    stores = memory_stores()
    broken = WebProcess(stores=replace(stores, videos=BrokenVideoStore(stores.videos.world)))
    async with api_over(broken) as client:
        with structlog.testing.capture_logs() as logs:
            answer = await client.get("/v1/videos/x")
    problem = problem_in(answer, status=500)
    assert problem["code"] == "internal_error"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" not in answer.text
    [entry] = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["error_id"] == problem["error_id"]
    assert isinstance(entry["exc_info"], ZeroDivisionError)


async def test_no_browser_takes_an_answer_for_a_page(process: WebProcess) -> None:
    async with api_over(process) as client:
        job_id = await submitted(client)
        for path in ("/v1/jobs", "/nothing", "/v1/jobs/nothing", f"/v1/jobs/{job_id}/detections"):
            assert (await client.get(path)).headers["x-content-type-options"] == "nosniff"


ODD_TEXTS = (
    "",
    " ",
    "%00",
    "%ff%fe",
    "..%2f..%2fetc",
    "%0d%0aSet-Cookie:x",
    "'; DROP TABLE jobs;--",
    "9" * 5000,
    "%F0%9F%9A%97",
)
ODD_QUERIES = {
    "/v1/videos": ("limit", "cursor"),
    "/v1/jobs": ("limit", "cursor", "state", "model"),
    "/v1/jobs/{}/detections": (
        *("format", "conf", "iou", "classes", "max_det"),
        *("from_frame", "to_frame", "follow"),
    ),
    "/v1/jobs/{}/timeline": ("bucket_s", "conf", "classes"),
    "/v1/jobs/nothing/events": ("last_event_id", "boxes"),
}
PATHS = (
    *(("GET", "/v1/videos/{}"), ("DELETE", "/v1/videos/{}"), ("GET", "/v1/jobs/{}"), ("DELETE", "/v1/jobs/{}")),
    *(("POST", "/v1/jobs/{}/cancel"), ("GET", "/v1/jobs/{}/events"), ("GET", "/v1/jobs/{}/detections")),
    *(("GET", "/v1/models/{}"), ("POST", "/v1/models/{}/load")),
)


async def test_nothing_odd_in_a_query_is_the_servers_fault(process: WebProcess) -> None:
    async with api_over(process) as client:
        job_id = await submitted(client)
        await process.work_until_idle()
        for path, names in ODD_QUERIES.items():
            for name, text in product(names, [*ODD_TEXTS, "nan", "inf", "-1", "1e999", str(2**63), "[]", "null"]):
                answer = await client.get(f"{path.format(job_id)}?{name}={text}")
                assert answer.status_code < 500, (path, name, text, answer.text)
                if answer.status_code >= 400:
                    problem_in(answer, status=answer.status_code)


async def test_nothing_odd_in_a_path_is_the_servers_fault(process: WebProcess) -> None:
    async with api_over(process) as client:
        for (method, path), text in product(PATHS, ODD_TEXTS):
            answer = await client.request(method, path.format(text))
            assert answer.status_code in (200, 204, 404, 405), (method, path, text, answer.text)


async def test_a_forged_id_breaks_no_line_of_the_log(process: WebProcess) -> None:
    async with api_over(process) as client:
        with structlog.testing.capture_logs([merge_contextvars]) as logs:
            await client.get("/v1/jobs/a%0d%0a%00%1b%5b31mforged" + "x" * 1000)
    [entry] = [dict(entry) for entry in logs if entry["event"] == "request answered"]
    assert entry["job_id"].startswith("a[31mforged")
    assert len(entry["job_id"]) == 64


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"0", b'"x"', b"{}", b'{"video_id":null,"model":0}'])
async def test_a_body_of_another_shape_is_refused(process: WebProcess, body: bytes) -> None:
    async with api_over(process) as client:
        answer = await client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert problem_in(answer, status=422)["code"] == "request_invalid"


@pytest.mark.parametrize("cls", OF_THE_TREE, ids=lambda cls: cls.__name__)
def test_every_error_has_a_status_that_fits_its_kind(cls: type[TrireelError]) -> None:
    status = status_of(cls)
    assert 400 <= status < 600
    if cls.retryable and cls in STATUS_BY_ERROR:
        assert status >= 500


def test_the_errors_page_lists_every_code_of_the_tree_the_web_layer_and_the_commands() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    of_the_web = {"request_malformed", "method_not_allowed", "body_too_large"}
    of_the_commands = {"usage_invalid", "os_error", "job_cancelled", "interrupted"}
    assert listed == {cls.code for cls in OF_THE_TREE} | of_the_web | of_the_commands


def test_the_errors_page_tells_the_statuses_of_the_table() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    told = {line.split("`")[1]: line.split("|")[2].strip() for line in page.splitlines() if line.startswith("| `")}
    for cls in OF_THE_TREE:
        if told[cls.code] != "-":
            assert told[cls.code] == str(status_of(cls).value), cls.code
