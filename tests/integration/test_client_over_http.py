"""Both clients against a real HTTP server, call for call."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.client import (
    AnswerInvalidError,
    ApiError,
    AsyncClient,
    Client,
    FrameRange,
    ServerUnreachableError,
    SettingsError,
    SubmitJob,
    ViewQuery,
)
from orchestrator.client.exchange import DEFAULT_URL, Resending
from orchestrator.client_errors import ConnectionLostError
from orchestrator.errors import RequestInvalidError
from tests.support.api_documents import MODEL, frame_json
from tests.support.fake_api import FakeApi, fake_api


class Blocking:
    """An AsyncClient with the face of a Client; streams become lists."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **named: Any) -> Any:
            answer = method(*args, **named)
            return self._runner.run(collected(answer) if hasattr(answer, "__aiter__") else answer)

        return call

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


async def collected(stream: Any) -> list[Any]:
    return [item async for item in stream]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as server:
        yield server


@pytest.fixture(params=[Client, Blocking])
def client(request: pytest.FixtureRequest, api: FakeApi) -> Iterator[Any]:
    client = request.param(api.url)
    yield client
    client.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "a clip & more.mp4"
    path.write_bytes(bytes(range(256)) * 10_000)
    return path


def test_a_video_goes_up_from_disk_as_it_is(api: FakeApi, client: Any, clip: Path) -> None:
    told: list[tuple[int, int]] = []
    video = client.upload(clip, on_progress=lambda sent, total: told.append((sent, total)))
    (request,) = api.requests
    assert request.body == clip.read_bytes()
    assert request.query == {"filename": "a clip & more.mp4"}
    assert request.headers["Content-Length"] == "2560000"
    assert (video.id, video.size_bytes, video.file_name) == ("vid_0", 2_560_000, "a clip & more.mp4")
    assert told == [(0, 2_560_000), (1_048_576, 2_560_000), (2_097_152, 2_560_000), (2_560_000, 2_560_000)]


def test_a_refused_upload_names_the_code(api: FakeApi, client: Any, clip: Path) -> None:
    api.max_upload_bytes = 1000
    with pytest.raises(ApiError, match="limit") as raised:
        client.upload(clip)
    assert (raised.value.code, raised.value.status, raised.value.retryable) == ("upload_too_large", 413, False)


def test_videos_are_listed_found_and_deleted(api: FakeApi, client: Any, clip: Path) -> None:
    video = client.upload(clip)
    assert client.video(video.id) == video
    assert client.videos(limit=10).items == (video,)
    client.delete_video(video.id)
    assert client.videos().items == ()


def test_a_submit_sends_only_what_was_said(api: FakeApi, client: Any, clip: Path) -> None:
    video = client.upload(clip)
    job = client.submit(SubmitJob(video_id=video.id, model=MODEL, view=ViewQuery(conf=0.4, classes=("car",)), fps=2.0))
    assert json.loads(api.requests[-1].body) == {
        "video_id": video.id,
        "model": MODEL,
        "fps": 2.0,
        "view": {"conf": 0.4, "classes": ["car"]},
    }
    assert (job.state, job.is_terminal, job.video.id) == ("queued", False, video.id)


def test_a_plain_submit_leaves_all_defaults_to_the_server(api: FakeApi, client: Any, clip: Path) -> None:
    client.submit(SubmitJob(video_id=client.upload(clip).id, model=MODEL))
    assert set(json.loads(api.requests[-1].body)) <= {"video_id", "model", "view"}
    assert json.loads(api.requests[-1].body).get("view", {}) == {}


def test_a_submit_whose_answer_was_lost_is_sent_again_and_makes_no_second_job(
    api: FakeApi, client: Any, clip: Path
) -> None:
    order = SubmitJob(video_id=client.upload(clip).id, model=MODEL)
    api.lost_answers = 1
    assert client.submit(order).id == "job_0"
    assert client.submit(order).id == "job_1"
    first, again, other = [request.headers["Idempotency-Key"] for request in api.requests[-3:]]
    assert first == again != other


def test_a_submit_may_be_named(api: FakeApi, client: Any, clip: Path) -> None:
    order = SubmitJob(video_id=client.upload(clip).id, model=MODEL)
    assert [client.submit(order, idempotency_key="order-7").id for _ in range(2)] == ["job_0", "job_0"]
    with pytest.raises(RequestInvalidError):
        client.submit(order, idempotency_key="über")


def test_a_call_is_sent_again_a_few_times_and_only_if_a_server_may_have_taken_it() -> None:
    lost, away = ConnectionLostError("lost"), ServerUnreachableError("away")
    with pytest.raises(ServerUnreachableError):
        Resending().lost(away)
    resending = Resending(pauses_s=(1.0, 2.0))
    assert [resending.lost(lost), resending.lost(away)] == [1.0, 2.0]
    with pytest.raises(ConnectionLostError):
        resending.lost(lost)


def test_jobs_are_found_listed_cancelled_and_deleted(api: FakeApi, client: Any) -> None:
    ids = [api.add_job("vid_0")["id"] for _ in range(3)]
    assert client.job(ids[0]).id == ids[0]
    page = client.jobs(states=["queued"], model=MODEL, limit=2)
    assert ([job.id for job in page.items], page.next_cursor) == (ids[:2], "more")
    assert api.requests[-1].query == {"state": "queued", "model": MODEL, "limit": "2"}
    assert client.cancel(ids[1]).state == "cancelled"
    retried = client.retry(ids[1])
    assert (retried.state, retried.attempt) == ("queued", 2)
    with pytest.raises(ApiError) as raised:
        client.retry(ids[0])
    assert (raised.value.code, raised.value.status) == ("state_conflict", 409)
    client.delete(ids[2])
    assert [job.id for job in client.jobs().items] == ids[:2]


@pytest.mark.parametrize("job_id", ["nope", "../videos", "a/b", "a?b", "%2e%2e", "ä b"])
def test_an_unknown_id_is_not_found_whatever_is_in_it(api: FakeApi, client: Any, job_id: str) -> None:
    with pytest.raises(ApiError) as raised:
        client.job(job_id)
    assert (raised.value.code, raised.value.status) == ("job_not_found", 404)
    assert api.requests[-1].path == f"/v1/jobs/{job_id}"


def test_models_limits_and_readiness(api: FakeApi, client: Any) -> None:
    (model,) = client.models()
    assert (model.name, model.versions[0].class_names) == (MODEL, ("car", "person"))
    assert client.model(MODEL) == model
    assert client.limits().max_fps == 240
    assert client.readiness().is_ready
    api.is_ready = False
    assert client.readiness().reasons == ("Triton is still loading",)


def test_a_timeline_counts_by_class(api: FakeApi, client: Any) -> None:
    timeline = client.timeline(api.add_job("vid_0")["id"], bucket_s=0.5, view=ViewQuery(conf=0.3))
    assert timeline.buckets[0].counts == {"car": 3, "person": 0}
    assert api.requests[-1].query == {"bucket_s": "0.5", "conf": "0.3"}


def test_detections_are_written_as_they_come(api: FakeApi, client: Any) -> None:
    api.frames = [frame_json(0, ("car", 0.9))]
    out = io.BytesIO()
    view = ViewQuery(conf=0.3, iou=0.5, classes=("car", "2"), max_det=9)
    written = client.detections(api.add_job("vid_0")["id"], out, view=view, frames=FrameRange(0, 9), follow=True)
    assert written == len(out.getvalue())
    assert [json.loads(line) for line in out.getvalue().splitlines()][1:] == api.frames
    assert api.requests[-1].query == {
        "format": "ndjson",
        "conf": "0.3",
        "iou": "0.5",
        "classes": "car,2",
        "max_det": "9",
        "from_frame": "0",
        "to_frame": "9",
        "follow": "1",
    }


def test_a_view_that_was_not_stored_is_refused_before_the_first_byte(api: FakeApi, client: Any) -> None:
    out = io.BytesIO()
    with pytest.raises(ApiError) as raised:
        client.detections(api.add_job("vid_0")["id"], out, view=ViewQuery(conf=0.01))
    assert (raised.value.code, out.getvalue()) == ("threshold_not_stored", b"")


def test_frames_come_one_by_one_the_empty_ones_too(api: FakeApi, client: Any) -> None:
    api.frames = [frame_json(0, ("car", 0.9), ("car", 0.5)), frame_json(1)]
    frames = list(client.frames(api.add_job("vid_0")["id"]))
    assert [(frame.frame_index, len(frame.detections)) for frame in frames] == [(0, 2), (1, 0)]
    assert frames[0].detections[0].xyxy == (1.0, 2.0, 30.0, 40.0)


def test_a_job_is_followed_to_its_end(api: FakeApi, client: Any) -> None:
    job = api.add_job("vid_0")
    events = list(client.follow(job["id"]))
    assert [event.kind for event in events] == [log.kind for log in api.events[job["id"]]]
    assert [event.id for event in events if event.id is not None] == [1, 2, 3, 4, 5, 6]
    assert events[2].body.percent == 25.0
    assert events[3].body.first_frame == 0
    assert events[-1].body.state == "succeeded"


def test_following_with_boxes_asks_for_them(api: FakeApi, client: Any) -> None:
    list(client.follow(api.add_job("vid_0")["id"], with_boxes=True, last_event_id=4))
    assert api.requests[-1].query == {"boxes": "1"}
    assert api.requests[-1].headers["Last-Event-ID"] == "4"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(12, 1500), max_size=4))
def test_broken_connections_leave_no_gap_and_no_repetition(api: FakeApi, client: Any, cuts: list[int]) -> None:
    api.cuts[:] = cuts
    job = api.add_job("vid_0")
    durable = [event for event in client.follow(job["id"]) if event.id is not None]
    assert [event.id for event in durable] == [1, 2, 3, 4, 5, 6]
    assert durable[-1].kind == "done"


def test_following_again_after_the_end_says_nothing(api: FakeApi, client: Any) -> None:
    job = api.add_job("vid_0")
    list(client.follow(job["id"]))
    assert list(client.follow(job["id"], last_event_id=6)) == []


def test_following_an_unknown_job_is_an_error(api: FakeApi, client: Any) -> None:
    with pytest.raises(ApiError, match="job_9"):
        list(client.follow("job_9"))


def test_a_job_that_is_deleted_while_followed_is_an_error(api: FakeApi) -> None:
    job = api.add_job("vid_0")
    api.cuts[:] = [200]
    with Client(api.url) as client:
        events = client.follow(job["id"])
        next(events)
        del api.jobs[job["id"]]
        with pytest.raises(ApiError) as raised:
            list(events)
    assert raised.value.code == "job_not_found"


@pytest.mark.parametrize("kind", [Client, Blocking])
def test_no_server_says_how_to_start_one(kind: Any) -> None:
    with fake_api() as gone:
        url = gone.url
    client = kind(url)
    with pytest.raises(ServerUnreachableError, match=r"`trireel serve` or `make serve`"):
        client.models()
    with pytest.raises(ServerUnreachableError):
        list(client.follow("job_1"))
    client.close()


def test_an_answer_that_is_no_trireels_is_told(api: FakeApi, client: Any) -> None:
    api.models = [{"title": "another API"}]
    with pytest.raises(AnswerInvalidError, match="one version"):
        client.models()


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "http://[::1", "http://host:port"])
def test_a_bad_address_is_a_setting_to_mend(url: str) -> None:
    with pytest.raises(SettingsError, match="address"):
        Client(url)


def test_a_proxy_is_not_asked_for_this_machine(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Client(api.url) as client:
        assert client.readiness().is_ready


def test_the_client_is_also_trireel() -> None:
    import trireel

    assert trireel.Client is Client
    assert trireel.AsyncClient is AsyncClient
    assert trireel.DEFAULT_URL == DEFAULT_URL
