"""The commands and both clients against the real server on a real embedded Triton."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.embedded_stack import embedded_stack, free_port
from orchestrator.cli.options import RESULT_FORMATS
from orchestrator.cli.program import program
from orchestrator.client import ApiError, AsyncClient, Client, DoneBody, ProgressBody, SegmentBody, SubmitJob, ViewQuery
from orchestrator.formats.format_table import FORMATS
from tests.support.needs import ROOT
from tests.support.triton import MEAN_COLOUR, write_mean_colour
from tests.support.videos import FRAMES, WHOLE, make_video

pytestmark = pytest.mark.needs("triton")

SEGMENT_FRAMES = 16
MAX_UPLOAD_BYTES = 4_000_000
TIMEOUT_S = 100


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(WHOLE[0], tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    repository = tmp_path_factory.mktemp("repository")
    write_mean_colour(repository)
    return {
        "TRIREEL_MODEL_REPOSITORY": str(repository),
        "TRIREEL_TRITON_ENV": os.environ.get("TRIREEL_TRITON_ENV", str(ROOT / ".venv-triton")),
        "TRIREEL_SEGMENT_FRAMES": str(SEGMENT_FRAMES),
        "TRIREEL_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def url(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with embedded_stack(tmp_path_factory.mktemp("data")) as stack:
            yield stack.url


@pytest.fixture(scope="module")
def job_id(url: str, clip: Path) -> str:
    """A job that has succeeded."""
    result = trireel(url, "submit", str(clip), "--conf", "0.01")
    assert trireel(url, "watch", result.stdout.strip()).exit_code == 0
    return result.stdout.strip()


def trireel(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(program, [*arguments, "--url", url])


def test_a_job_is_watched_to_exactly_100_percent(url: str, clip: Path) -> None:
    with Client(url) as client:
        video = client.upload(clip)
        job = client.submit(SubmitJob(video_id=video.id, model=MEAN_COLOUR, every_nth=3))
        bodies = [event.body for event in client.follow(job.id)]
    segments = [body for body in bodies if isinstance(body, SegmentBody)]
    sampled = len(range(0, FRAMES, 3))
    assert [body.segment for body in segments] == list(range(len(segments)))
    assert sum(body.frames for body in segments) == segments[-1].frames_done == sampled
    assert [body.percent for body in bodies if isinstance(body, ProgressBody)][-1] == 100.0
    assert bodies[-1] == DoneBody(
        job_id=job.id, state="succeeded", error=None, frames_done=sampled, frames_total=sampled
    )


def test_following_a_job_that_is_over_tells_it_all_again(url: str, job_id: str) -> None:
    with Client(url) as client:
        events = [event for event in client.follow(job_id, with_boxes=True) if event.id is not None]
        assert list(client.follow(job_id, last_event_id=events[-1].id)) == []
        half = events[len(events) // 2].id
        assert [event.id for event in client.follow(job_id, last_event_id=half) if event.id is not None] == [
            event.id for event in events if event.id is not None and half is not None and event.id > half
        ]
    boxes = [body.detections for body in (event.body for event in events) if isinstance(body, SegmentBody)]
    assert sum(map(len, boxes)) == FRAMES


async def test_the_async_client_speaks_the_same_api(url: str, job_id: str) -> None:
    async with AsyncClient(url) as client:
        job = await client.job(job_id)
        assert (job.state, job.ledger.inferred, job.params.view.conf) == ("succeeded", FRAMES, 0.01)
        assert (await client.limits()).max_upload_bytes == MAX_UPLOAD_BYTES
        assert (await client.readiness()).is_ready
        frames = [frame async for frame in client.frames(job_id)]
        assert [frame.frame_index for frame in frames] == list(range(FRAMES))
        timeline = await client.timeline(job_id, bucket_s=1.0, view=ViewQuery(conf=0.01))
        assert sum(sum(bucket.counts.values()) for bucket in timeline.buckets) == FRAMES
        certificate = (await client.model(MEAN_COLOUR)).versions[0]
        assert (certificate.is_ready, certificate.certificate) == (True, "passed")
        assert [event.kind async for event in client.follow(job_id)][-1] == "done"


def test_the_formats_are_those_of_the_server() -> None:
    assert set(RESULT_FORMATS) == set(FORMATS)


@pytest.mark.parametrize("file_format", RESULT_FORMATS)
def test_results_come_in_every_format(url: str, job_id: str, tmp_path: Path, file_format: str) -> None:
    path = tmp_path / f"found.{file_format}"
    result = trireel(url, "results", job_id, "--format", file_format, "--output", str(path), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["size_bytes"] == path.stat().st_size
    assert detections_in(path, file_format) == FRAMES


def detections_in(path: Path, file_format: str) -> int:
    if file_format == "ndjson":
        return sum(len(json.loads(line)["detections"]) for line in path.read_text().splitlines()[1:])
    if file_format == "json":
        return len(json.loads(path.read_text())["detections"])
    if file_format == "csv":
        return len(list(csv.DictReader(path.read_text().splitlines())))
    from pyarrow import parquet

    return int(parquet.read_table(path).num_rows)


def test_lists_models_and_status_read_the_real_answers(url: str, job_id: str) -> None:
    assert job_id in trireel(url, "list", "--state", "succeeded", "--state", "failed", "--model", MEAN_COLOUR).stdout
    assert trireel(url, "list", "--state", "queued").stdout == "no jobs\n"
    assert f"{FRAMES} inferred, 0 failed" in trireel(url, "status", job_id).stdout
    assert "ready" in trireel(url, "models").stdout
    assert trireel(url, "cancel", job_id).stdout == f"job {job_id} succeeded\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--conf", "1.5"], "threshold_out_of_range"),
        (["--conf", "0.0001"], "threshold_not_stored"),
        (["--classes", "unicorn"], "class_unknown"),
    ],
)
def test_a_view_that_cannot_be_is_refused_with_its_code(url: str, job_id: str, arguments: list[str], code: str) -> None:
    result = trireel(url, "results", job_id, *arguments)
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith(f"trireel: {code}: ")


def test_a_file_that_is_no_video_is_refused(url: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no video " * 100)
    result = trireel(url, "submit", str(path))
    assert result.exit_code == 4
    assert result.stderr.splitlines()[-1].startswith("trireel: video_unreadable: ")


@pytest.mark.parametrize("size_bytes", [MAX_UPLOAD_BYTES + 1, 20 * MAX_UPLOAD_BYTES])
async def test_a_file_over_the_limit_is_refused_with_the_limit(url: str, tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "huge.mp4"
    with path.open("wb") as file:
        file.truncate(size_bytes)
    with Client(url) as client, pytest.raises(ApiError) as raised:
        client.upload(path)
    async with AsyncClient(url) as async_client:
        with pytest.raises(ApiError) as raised_too:
            await async_client.upload(path)
    assert [(error.value.status, error.value.code) for error in (raised, raised_too)] == [(413, "upload_too_large")] * 2


def test_videos_and_jobs_are_deleted(url: str, clip: Path) -> None:
    with Client(url) as client:
        video = client.upload(clip)
        job = client.submit(SubmitJob(video_id=video.id, model=MEAN_COLOUR, every_nth=50))
        assert [event.kind for event in client.follow(job.id)][-1] == "done"
        client.delete(job.id)
        client.delete_video(video.id)
        for call in (lambda: client.job(job.id), lambda: client.video(video.id)):
            with pytest.raises(ApiError) as raised:
                call()
            assert raised.value.status == 404


def run_alone(clip: Path, *more: str) -> list[str]:
    nobody = f"http://127.0.0.1:{free_port()}"
    return [sys.executable, "-m", "orchestrator", "run", str(clip), "--conf", "0.01", "--url", nobody, *more]


def test_run_brings_its_own_stack_and_leaves_nothing_of_it(
    clip: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    data_dir = tmp_path / "data"
    process = subprocess.run(
        run_alone(clip, "--json", "--data-dir", str(data_dir)),
        cwd=tmp_path,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    document = json.loads(process.stdout)
    assert (document["job"]["state"], document["job"]["ledger"]["inferred"]) == ("succeeded", FRAMES)
    assert sum(found["detections"] for found in document["found"]) == FRAMES
    assert detections_in(tmp_path / document["results"], "ndjson") == FRAMES
    assert "listening" in (data_dir / "serve.log").read_text()
    assert not is_listening(address_in(data_dir / "serve.log"))


def test_sigterm_in_run_stops_the_stack_too(clip: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    data_dir = tmp_path / "data"
    with subprocess.Popen(
        run_alone(clip, "--data-dir", str(data_dir)),
        cwd=tmp_path,
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        # The stack is ready once the upload has begun.
        assert any(line.startswith("uploading") for line in process.stderr)
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert not is_listening(address_in(data_dir / "serve.log"))


def address_in(log: Path) -> tuple[str, int]:
    (url,) = [line.rpartition("url=")[2] for line in log.read_text().splitlines() if "listening" in line]
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def is_listening(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0
