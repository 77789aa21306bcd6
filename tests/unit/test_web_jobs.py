"""Jobs, videos and models over HTTP, on in-memory parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.contract import CERTIFICATE_FILE
from orchestrator.core.states import JobState
from orchestrator.core.types import StageSeconds
from orchestrator.testing.fake_reader import GeneratedVideo
from tests.support.api import VIDEO, api_over, problem_in, submitted
from tests.support.web_process import FakeTriton, WebProcess, yolo


@pytest.fixture(scope="module")
def process() -> WebProcess:
    """For requests that change nothing, or nothing that another test looks at."""
    return WebProcess()


async def test_an_uploaded_video_is_shown_with_what_the_index_told_once_it_is_there() -> None:
    process = WebProcess()
    async with api_over(process) as client:
        created = await client.post("/v1/videos?filename=crossing.mp4", content=VIDEO)
        assert created.status_code == 201
        video = created.json()
        assert created.headers["location"] == f"/v1/videos/{video['id']}"
        assert (video["file_name"], video["size_bytes"], video["index_state"]) == ("crossing.mp4", 105, "pending")

        stored = await process.videos.get(video["id"])
        await process.stores.videos.add(replace(stored, header=replace(stored.header, duration_s_hint=2.0)))
        video = (await client.get(created.headers["location"])).json()
        assert (video["frame_count"], video["is_vfr"], video["duration_s"]) == (None, None, 2.0)

        assert await process.videos.index_next()
        video = (await client.get(created.headers["location"])).json()
        assert (video["index_state"], video["frame_count"], video["is_vfr"]) == ("ready", 100, False)
        assert video["duration_s"] == 4.0


async def test_a_submit_is_answered_at_once_with_every_field_of_a_job() -> None:
    process = WebProcess()
    async with api_over(process) as client:
        video_id = (await client.post("/v1/videos", content=VIDEO)).json()["id"]
        body = {
            "video_id": video_id,
            "model": "yolo11n:1",
            "fps": 5,
            "start_s": 1.5,
            "end_s": 9,
            "view": {"conf": 0.4, "iou": 0.5, "classes": ["car", 0], "max_det": 10},
            "priority": 80,
            "timeout_s": 60,
            "tags": ["night"],
        }
        answer = await client.post("/v1/jobs", json=body)
        job = answer.json()
        assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{job['id']}")
        assert (job["state"], job["is_terminal"], job["stage"], job["queue_position"]) == ("queued", False, "queued", 1)
        assert job["video"]["id"] == video_id
        assert (job["model"]["name"], job["model"]["version"]) == ("yolo11n", 1)
        assert job["params"] == {
            "every_nth": 1,
            "fps": 5.0,
            "start_s": 1.5,
            "end_s": 9.0,
            "view": {"conf": 0.4, "iou": 0.5, "classes": ["person", "car"], "max_det": 10},
            "priority": 80,
            "timeout_s": 60.0,
            "tags": ["night"],
        }
        assert job["progress"]["percent"] == 0.0
        assert job == (await client.get(answer.headers["location"])).json()


async def test_timings_are_told_to_the_millisecond() -> None:
    process = WebProcess()
    async with api_over(process) as client:
        job_id = await submitted(client)
        shown = await process.jobs.snapshot(job_id)
        seconds = StageSeconds(decoding=1.23456, inferring=0.0004)
        process.stores.runs.world.set_run(replace(shown.run, seconds=seconds))
        process.clock.seconds = 0.1239
        await process.plan()
        timings = (await client.get(f"/v1/jobs/{job_id}")).json()["timings_s"]
        assert (timings["decoding"], timings["inferring"], timings["queued"]) == (1.235, 0.0, 0.124)


async def test_percent_is_exactly_100_at_the_end_and_never_before() -> None:
    process = WebProcess(video=GeneratedVideo(frame_count=32))
    async with api_over(process) as client:
        job_id = await submitted(client)
        await process.plan()
        for percent in (12.5, 75.0):
            await process.worker.work_once()
            assert (await client.get(f"/v1/jobs/{job_id}")).json()["progress"]["percent"] == percent
        await process.work_until_idle()
        job = (await client.get(f"/v1/jobs/{job_id}")).json()
        assert (job["progress"]["percent"], job["is_terminal"], job["stage"]) == (100.0, True, "done")


async def test_a_failed_job_is_answered_200_with_its_reason() -> None:
    process = WebProcess()
    async with api_over(process) as client:
        job_id = await submitted(client, timeout_s=60)
        await process.plan()
        process.clock.seconds = 61
        await process.plan()
        answer = await client.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200
        assert answer.json()["state_reason"] == "job_timeout"
        assert answer.json()["error"] == {"code": "job_timeout", "message": "the job ran longer than its timeout_s"}


async def test_jobs_are_paged_newest_first_and_filtered() -> None:
    process = WebProcess(max_running_jobs=1)
    async with api_over(process) as client:
        ids = [await submitted(client, timeout_s=60) for _ in range(3)]
        first = (await client.get("/v1/jobs?limit=2")).json()
        assert [job["id"] for job in first["items"]] == ids[:0:-1]
        rest = (await client.get(f"/v1/jobs?limit=2&cursor={first['next_cursor']}")).json()
        assert ([job["id"] for job in rest["items"]], rest["next_cursor"]) == (ids[:1], None)

        await process.plan()
        process.clock.seconds = 61
        await process.plan()
        for query in ("state=running,failed", "state=running&state=failed"):
            found = (await client.get(f"/v1/jobs?{query}")).json()["items"]
            assert [job["id"] for job in found] == [ids[1], ids[0]]
        assert [(await process.jobs.snapshot(job_id)).job.state for job_id in ids] == ["failed", "running", "queued"]
        assert len((await client.get("/v1/jobs?model=yolo11n")).json()["items"]) == 3
        assert (await client.get("/v1/jobs?model=another")).json()["items"] == []
        assert len((await client.get("/v1/jobs?model=yolo11n:1")).json()["items"]) == 3
        for odd in ("yolo11n:x", "yolo11n:", ":1", "yolo11n:0", f"yolo11n:{2**31}", f"yolo11n:{2**63}"):
            problem = problem_in(await client.get(f"/v1/jobs?model={odd}"), status=422)
            assert problem["code"] == "request_invalid"


async def test_a_job_may_be_cancelled_twice_and_deleted_in_any_state() -> None:
    async with api_over(WebProcess()) as client:
        job_id = await submitted(client)
        for _ in range(2):
            answer = await client.post(f"/v1/jobs/{job_id}/cancel")
            assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert (await client.delete(f"/v1/jobs/{job_id}")).status_code == 204
        assert problem_in(await client.get(f"/v1/jobs/{job_id}"), status=404)["code"] == "job_not_found"


async def test_a_video_in_use_is_kept_until_its_job_is_gone() -> None:
    async with api_over(WebProcess()) as client:
        job_id = await submitted(client)
        assert problem_in(await client.delete("/v1/videos/vid_1"), status=409)["code"] == "video_in_use"
        await client.delete(f"/v1/jobs/{job_id}")
        assert (await client.delete("/v1/videos/vid_1")).status_code == 204
        assert (await client.get("/v1/videos")).json() == {"items": [], "next_cursor": None}


REFUSED_SUBMITS = {
    "unknown_class": ({"view": {"classes": ["unicorn"]}}, 422, "class_unknown"),
    "confidence_out_of_range": ({"view": {"conf": 1.5}}, 422, "threshold_out_of_range"),
    "confidence_not_stored": ({"view": {"conf": 0.01}}, 422, "threshold_not_stored"),
    "iou_not_stored": ({"view": {"iou": 0.9}}, 422, "threshold_not_stored"),
    "too_many_boxes": ({"view": {"max_det": 301}}, 422, "threshold_out_of_range"),
    "two_samplings": ({"every_nth": 2, "fps": 5}, 422, "sampling_invalid"),
    "sampling_of_nothing": ({"every_nth": 0}, 422, "sampling_invalid"),
    "end_before_start": ({"start_s": 5, "end_s": 5}, 422, "sampling_invalid"),
    "unknown_model": ({"model": "yolo99"}, 404, "model_not_found"),
    "odd_model": ({"model": "yolo11n:new"}, 422, "request_invalid"),
    "unknown_video": ({"video_id": "../../etc/passwd"}, 404, "video_not_found"),
    "source_to_come": ({"url": "http://127.0.0.1/x.mp4"}, 422, "not_supported"),
    "unknown_member": ({"prioritty": 1}, 422, "request_invalid"),
    "wrong_type": ({"priority": "high"}, 422, "request_invalid"),
    "too_many_tags": ({"tags": ["night"] * 51}, 422, "request_invalid"),
    "too_long_a_tag": ({"tags": ["x" * 101]}, 422, "request_invalid"),
    "beyond_any_number": ({"every_nth": 10**30}, 422, "request_invalid"),
}


@pytest.mark.parametrize(("change", "status", "code"), REFUSED_SUBMITS.values(), ids=REFUSED_SUBMITS)
async def test_a_bad_submit_is_refused_with_its_code(
    process: WebProcess, change: dict[str, object], status: int, code: str
) -> None:
    async with api_over(process) as client:
        video_id = (await client.post("/v1/videos", content=VIDEO)).json()["id"]
        body = {"video_id": video_id, "model": "yolo11n", **change}
        assert problem_in(await client.post("/v1/jobs", json=body), status=status)["code"] == code
        assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_a_submit_that_is_sent_again_is_answered_with_the_same_job() -> None:
    process = WebProcess()
    async with api_over(process) as client:
        video_id = (await client.post("/v1/videos", content=VIDEO)).json()["id"]
        body, key = {"video_id": video_id, "model": "yolo11n"}, {"Idempotency-Key": "order-7"}
        first = await client.post("/v1/jobs", json=body, headers=key)
        process.catalogue.is_away = True
        again = await client.post("/v1/jobs", json={**body, "priority": 50}, headers=key)
        assert (again.status_code, again.json(), again.headers["location"]) == (
            first.status_code,
            first.json(),
            first.headers["location"],
        )
        assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
        other = await client.post("/v1/jobs", json={**body, "priority": 51}, headers=key)
        assert problem_in(other, status=422)["code"] == "idempotency_key_reused"
        assert len((await client.get("/v1/jobs")).json()["items"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "two words"])
async def test_an_odd_key_is_refused_with_a_code_of_its_own(process: WebProcess, key: str) -> None:
    async with api_over(process) as client:
        video_id = (await client.post("/v1/videos", content=VIDEO)).json()["id"]
        body = {"video_id": video_id, "model": "yolo11n"}
        answer = await client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
        assert problem_in(answer, status=422)["code"] == "idempotency_key_invalid"


async def test_a_job_that_ran_out_of_time_is_retried_and_goes_on_where_it_stopped() -> None:
    process = WebProcess()
    async with api_over(process) as client:
        job_id = await submitted(client, timeout_s=60)
        problem = problem_in(await client.post(f"/v1/jobs/{job_id}/retry"), status=409)
        assert (problem["code"], problem["job_id"]) == ("state_conflict", job_id)
        await process.plan()
        await process.worker.work_once()
        process.clock.seconds = 61
        await process.plan()
        answer = await client.post(f"/v1/jobs/{job_id}/retry")
        job = answer.json()
        assert (answer.status_code, job["state"], job["attempt"], job["error"]) == (202, "queued", 2, None)
        assert job["ledger"]["inferred"] > 0
        await process.work_until_idle()
        assert (await client.get(f"/v1/jobs/{job_id}")).json()["state"] == "succeeded"
        assert sorted(process.model.frames_inferred) == list(range(100))
        assert problem_in(await client.post("/v1/jobs/job_0/retry"), status=404)["code"] == "job_not_found"


async def test_what_is_to_come_is_refused_and_not_ignored() -> None:
    async with api_over(WebProcess()) as client:
        job_id = await submitted(client)
        for source in ({"url": "http://127.0.0.1/x.mp4"}, {"path": "/etc/passwd"}):
            answer = await client.post("/v1/jobs", json={"model": "yolo11n", **source})
            assert problem_in(answer, status=422)["code"] == "not_supported"
        validate = await client.post("/v1/jobs/validate", json={})
        assert problem_in(validate, status=405)["code"] == "method_not_allowed"
        for name in ("coco", "yolo", "mot", "x" * 1000):
            answer = await client.get(f"/v1/jobs/{job_id}/detections?format={name}")
            assert problem_in(answer, status=422)["code"] == "format_unknown"


async def test_models_are_listed_with_versions_and_one_with_its_certificate(tmp_path: Path) -> None:
    certificate = tmp_path / "yolo11n" / "1" / CERTIFICATE_FILE
    certificate.parent.mkdir(parents=True)
    certificate.write_text(json.dumps({"verdict": "passed", "boxes": 812}))
    process = WebProcess(environment={"TRIREEL_MODEL_REPOSITORY": str(tmp_path)})
    async with api_over(process) as client:
        [model] = (await client.get("/v1/models")).json()["items"]
        [version] = model["versions"]
        assert (model["name"], version["version"], version["is_ready"]) == ("yolo11n", 1, True)
        assert (version["certificate"], version["certificate_report"]) == ("passed", None)
        [version] = (await client.get("/v1/models/yolo11n")).json()["versions"]
        assert version["certificate_report"] == {"verdict": "passed", "boxes": 812}
        assert problem_in(await client.get("/v1/models/nothing"), status=404)["code"] == "model_not_found"


async def test_a_model_published_later_is_served_after_a_load() -> None:
    process = WebProcess(catalogue=FakeTriton([yolo(), yolo("fresh")]))
    process.catalogue.set_ready("fresh", 1, reason_against="unloaded")
    async with api_over(process) as client:
        assert problem_in(await client.post("/v1/models/nothing/load"), status=404)["code"] == "model_not_found"
        models = (await client.get("/v1/models")).json()["items"]
        assert [(model["name"], model["versions"][0]["is_ready"]) for model in models] == [
            ("fresh", False),
            ("yolo11n", True),
        ]
        answer = await client.post("/v1/models/fresh/load")
        assert (answer.status_code, answer.json()["name"]) == (200, "fresh")
        models = (await client.get("/v1/models")).json()["items"]
        assert [(model["name"], model["versions"][0]["is_ready"]) for model in models] == [
            ("fresh", True),
            ("yolo11n", True),
        ]


async def test_readiness_says_why_not_and_health_does_not_mind() -> None:
    process = WebProcess()
    process.catalogue.is_away = True
    async with api_over(process) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["Triton does not answer"])
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        process.catalogue.is_away = False
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["transport"], answer.json()["triton_url"]) == (
            200,
            "shm",
            "127.0.0.1:8001",
        )
        assert answer.json()["tritons"] == [
            {"url": "127.0.0.1:8001", "is_ready": True, "reasons": [], "transport": "shm", "transport_reason": ""}
        ]


async def test_a_busy_triton_is_answered_503_and_told_to_be_worth_another_try() -> None:
    process = WebProcess()
    async with api_over(process) as client:
        await client.post("/v1/videos", content=VIDEO)
        process.catalogue.is_away = True
        answer = await client.post("/v1/jobs", json={"video_id": "vid_1", "model": "yolo11n"})
        problem = problem_in(answer, status=503)
        assert (problem["code"], problem["retryable"]) == ("triton_unavailable", True)
        assert int(answer.headers["retry-after"]) > 0


async def test_limits_are_plain_numbers_by_name() -> None:
    async with api_over(WebProcess(max_upload_bytes=12345)) as client:
        limits = (await client.get("/v1/limits")).json()
        assert limits["max_upload_bytes"] == 12345
        assert (limits["max_tags"], limits["max_tag_length"]) == (50, 100)
        assert min(limits["decoder_memory_bytes"], limits["stall_timeout_s"]) > 0
        assert all(isinstance(value, int | float) for value in limits.values())


async def test_counters_with_fixed_labels_begin_at_zero() -> None:
    """A series that begins with 1 is no increase to Prometheus."""
    async with api_over(WebProcess()) as client:
        lines = set((await client.get("/metrics")).text.splitlines())
    ends = [state.value for state in JobState if state.is_terminal]
    assert {f'trireel_jobs_finished_total{{state="{state}"}} 0.0' for state in ends} <= lines
    assert 'trireel_decoder_exits_total{reason="crashed"} 0.0' in lines
    assert 'trireel_inference_retries_total{reason="triton_timeout"} 0.0' in lines


async def test_metrics_count_by_route_and_never_by_what_a_client_made_up() -> None:
    async with api_over(WebProcess()) as client:
        for number in range(5):
            await client.get(f"/v1/jobs/unknown{number}")
            await client.get(f"/nothing/{number}")
            await client.request(f"ODD{number}", "/healthz")
        text = (await client.get("/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("trireel_http_requests_total{")]
        assert any('route="/v1/jobs/{job_id}"' in line and line.endswith(" 5.0") for line in lines)
        assert any('route="unmatched"' in line for line in lines)
        assert any('method="other"' in line for line in lines)
        assert "unknown1" not in text
        assert "ODD1" not in text
        assert "trireel_queued_jobs 0.0" in text
