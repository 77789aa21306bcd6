"""Whatever is wrong with a request or a file: a code, a sentence, nothing left on disk, the server unharmed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from orchestrator.client import SubmitJob
from tests.e2e.conftest import MAX_UPLOAD_BYTES
from tests.support.stack import Stack
from tests.support.triton import MEAN_COLOUR
from tests.support.videos import WHOLE, make_video

pytestmark = pytest.mark.needs("triton")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(WHOLE[0], tmp_path_factory.mktemp("videos"))


def files_of(stack: Stack) -> set[str]:
    """Everything kept of videos and results."""
    kept = [path.relative_to(stack.data_dir).as_posix() for path in stack.data_dir.rglob("*") if path.is_file()]
    return {name for name in kept if not name.startswith(("trireel.db", "logs/"))}


def uploads_interrupted(stack: Stack) -> int:
    """As the server's log tells, once nothing of the upload is left to be done."""
    return stack.program.log.read_text(errors="replace").count("upload interrupted")


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"]
    assert "Traceback" not in answer.text


def sound_only(path: Path) -> bytes:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.rate = 44_100
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path.read_bytes()


def encrypted(clip: Path, path: Path) -> bytes:
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    with av.open(str(clip)) as source, av.open(str(path), "w", format="mp4", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("make_body", "code"),
    [
        pytest.param(lambda clip, folder: b"this is no video" * 100, "video_unreadable", id="unreadable"),
        pytest.param(lambda clip, folder: b"", "upload_empty", id="empty"),
        pytest.param(lambda clip, folder: sound_only(folder / "s.mp4"), "video_without_picture", id="sound only"),
        pytest.param(lambda clip, folder: encrypted(clip, folder / "e.mp4"), "video_encrypted", id="encrypted"),
        pytest.param(lambda clip, folder: clip.read_bytes()[:700], "video_unreadable", id="cut before its header"),
        pytest.param(
            lambda clip, folder: b"ffconcat version 1.0\nfile 'other.mp4'\n", "video_unreadable", id="playlist"
        ),
    ],
)
def test_a_file_that_is_no_usable_video_is_refused(
    stack: Stack, clip: Path, tmp_path: Path, make_body: Callable[[Path, Path], bytes], code: str
) -> None:
    before = files_of(stack)
    answer = httpx.post(f"{stack.url}/v1/videos?filename=bad.mp4", content=make_body(clip, tmp_path), timeout=60)
    assert_problem(answer, 422, code)
    assert files_of(stack) == before


def test_a_body_over_the_limit_is_refused_announced_or_not(stack: Stack) -> None:
    before = files_of(stack)
    too_much = bytes(MAX_UPLOAD_BYTES + 1)
    announced = httpx.post(f"{stack.url}/v1/videos?filename=big.mp4", content=too_much, timeout=60)
    in_pieces = httpx.post(
        f"{stack.url}/v1/videos?filename=big.mp4",
        content=(too_much[i : i + 65_536] for i in range(0, len(too_much), 65_536)),
    )
    for answer in (announced, in_pieces):
        assert_problem(answer, 413, "upload_too_large")
    assert files_of(stack) == before


def test_the_larger_limit_holds_for_uploads_only(stack: Stack) -> None:
    answer = httpx.post(f"{stack.url}/v1/jobs", content=b" " * 3_000_000, timeout=60)
    assert answer.status_code == 413


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_client_that_goes_away_half_way_leaves_nothing(stack: Stack, clip: Path, share: float) -> None:
    before, videos = files_of(stack), len(stack.client.videos(limit=100).items)
    interrupted = uploads_interrupted(stack)
    body = clip.read_bytes()
    host, port = stack.url.removeprefix("http://").split(":")
    head = f"POST /v1/videos?filename=half.mp4 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body[: int(share * len(body))])
        stack.program.wait_until(lambda: files_of(stack) > before, timeout_s=20, what="the upload has begun")
    stack.program.wait_until(
        lambda: uploads_interrupted(stack) == interrupted + 1, timeout_s=20, what="the upload was given up"
    )
    assert files_of(stack) == before
    assert len(stack.client.videos(limit=100).items) == videos
    assert stack.client.readiness().is_ready


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": "no_such_model"}, 404, "model_not_found"),
        ({"model": "mean_colour:99"}, 404, "model_not_found"),
        ({"model": "../../etc"}, 404, "model_not_found"),
        ({"video_id": "vid_unknown"}, 404, "video_not_found"),
        ({"view": {"classes": ["lorry"]}}, 422, "class_unknown"),
        ({"view": {"conf": 1.5}}, 422, "threshold_out_of_range"),
        ({"view": {"conf": 0.0001}}, 422, "threshold_not_stored"),
        ({"view": {"iou": 0.95}}, 422, "threshold_not_stored"),
        ({"every_nth": 0}, 422, "sampling_invalid"),
        ({"start_s": 5, "end_s": 5}, 422, "sampling_invalid"),
        ({"priority": 0}, 422, "threshold_out_of_range"),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_it_exists(
    stack: Stack, clip: Path, change: dict[str, Any], status: int, code: str
) -> None:
    video = stack.client.upload(clip)
    jobs = len(stack.client.jobs(limit=100).items)
    request = {"video_id": video.id, "model": MEAN_COLOUR, **change}
    assert_problem(httpx.post(f"{stack.url}/v1/jobs", json=request), status, code)
    assert len(stack.client.jobs(limit=100).items) == jobs


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/jobs/job_unknown", "job_not_found"),
        ("POST", "/v1/jobs/job_unknown/cancel", "job_not_found"),
        ("DELETE", "/v1/jobs/job_unknown", "job_not_found"),
        ("GET", "/v1/jobs/job_unknown/events", "job_not_found"),
        ("GET", "/v1/jobs/job_unknown/detections", "job_not_found"),
        ("GET", "/v1/jobs/job_unknown/timeline", "job_not_found"),
        ("GET", "/v1/videos/vid_unknown", "video_not_found"),
        ("DELETE", "/v1/videos/..%2f..%2fetc", "not_found"),
        ("GET", "/v1/models/unknown", "model_not_found"),
    ],
)
def test_an_unknown_id_is_not_found(stack: Stack, method: str, path: str, code: str) -> None:
    assert_problem(httpx.request(method, stack.url + path), 404, code)


def test_a_sampling_that_leaves_no_frame_fails_the_job_with_what_to_change(stack: Stack, clip: Path) -> None:
    video = stack.client.upload(clip)
    job, _ = stack.run_to_end(SubmitJob(video_id=video.id, model=MEAN_COLOUR, start_s=3600))
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == "video_without_frames"
    assert "start_s" in job.error.message


def test_a_hostile_file_name_is_kept_as_a_name_only(stack: Stack, clip: Path) -> None:
    name = "../../\u202egpj.<img src=x>\r\n'; DROP TABLE jobs;--.mp4"
    video = stack.client.upload(clip, file_name=name)
    assert stack.client.video(video.id).id == video.id
    assert not any("img" in kept for kept in files_of(stack))
