"""A server that is stopped, killed and started again loses nothing, and its watchers are told everything once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.sync.client import connect

from orchestrator.client import Client, SegmentBody, SubmitJob
from orchestrator.web.sse import OPENING, RETRY_MS, RETRY_SPREAD_MS
from tests.support.needs import ROOT
from tests.support.stack import Stack, serving
from tests.support.triton import MEAN_COLOUR
from tests.support.videos import FRAMES, WHOLE, make_video

pytestmark = pytest.mark.needs("triton")

# The issue's own bound for a stop while clients follow.
STOP_LIMIT_S = 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(WHOLE[0], tmp_path_factory.mktemp("videos"))


def slow_job(stack: Stack, clip: Path) -> str:
    """A job that works for a while: many one-frame segments."""
    video = stack.client.upload(clip)
    return stack.client.submit(SubmitJob(video_id=video.id, model=MEAN_COLOUR)).id


def wait_for_segments(stack: Stack, job_id: str, count: int) -> None:
    """Until so many segments are committed."""
    for event in stack.client.follow(job_id):
        count -= isinstance(event.body, SegmentBody)
        if count == 0:
            return


def test_sigterm_ends_with_0_while_clients_follow(quick_repository: Path, tmp_path: Path, clip: Path) -> None:
    with serving(tmp_path, model_repository=quick_repository, SEGMENT_FRAMES="1") as stack:
        job_id = slow_job(stack, clip)
        with ThreadPoolExecutor() as followers:
            events_ended = followers.submit(read_all_events, stack.url)
            socket_ended = followers.submit(close_code_of_socket, stack.url, job_id)
            stack.program.wait_until(lambda: are_followed(stack.url), timeout_s=STOP_LIMIT_S, what="both follow")
            stack.program.process.send_signal(signal.SIGTERM)
            assert stack.program.process.wait(STOP_LIMIT_S) == 0
            told = events_ended.result(STOP_LIMIT_S)
            assert told.startswith(OPENING)
            # The last words say when to come back.
            last = re.fullmatch(rb"retry: (\d+)", told.rstrip().rpartition(b"\n")[2])
            assert last is not None
            assert RETRY_MS <= int(last[1]) < RETRY_MS + RETRY_SPREAD_MS
            assert socket_ended.result(STOP_LIMIT_S) == CloseCode.SERVICE_RESTART


def are_followed(url: str) -> bool:
    """Whether both kinds of streams are open."""
    metrics = httpx.get(f"{url}/metrics").text
    return all(f'trireel_event_streams{{kind="{kind}"}} 1.0' in metrics for kind in ("sse", "ws"))


def read_all_events(url: str) -> bytes:
    """Everything on the stream of all jobs; an end that is no proper one raises."""
    return httpx.get(f"{url}/v1/events", timeout=60).content


def close_code_of_socket(url: str, job_id: str) -> int | None:
    with connect(f"{url.replace('http', 'ws')}/v1/jobs/{job_id}/ws") as socket:
        while True:
            try:
                socket.recv(timeout=60)
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_goes_on_where_its_server_ended(
    quick_repository: Path, tmp_path: Path, clip: Path, number: signal.Signals
) -> None:
    with serving(tmp_path, model_repository=quick_repository, SEGMENT_FRAMES="1") as stack:
        job_id = slow_job(stack, clip)
        wait_for_segments(stack, job_id, 5)
        last_seen = list_segments_so_far(stack.client, job_id)
        os.kill(stack.program.process.pid, number)
        stack.program.process.wait(30)
    with serving(tmp_path, model_repository=quick_repository, SEGMENT_FRAMES="1") as stack:
        segments = [event.body.segment for event in stack.client.follow(job_id) if isinstance(event.body, SegmentBody)]
        job = stack.client.job(job_id)
        assert (job.state, job.ledger.inferred) == ("succeeded", FRAMES)
        assert sorted(segments) == sorted(set(segments))
        assert segments[: len(last_seen)] == last_seen
        assert len([*stack.client.frames(job_id)]) == FRAMES


def list_segments_so_far(client: Client, job_id: str) -> list[int]:
    """Numbers of the segments committed by now, in the order of their events."""
    done = client.job(job_id).ledger
    numbers: list[int] = []
    for event in client.follow(job_id):
        if isinstance(event.body, SegmentBody):
            numbers.append(event.body.segment)
            if event.body.frames_done >= done.inferred:
                break
    return numbers


def test_a_second_server_on_the_same_data_is_refused(stack: Stack) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TRIREEL_PORT": "0",
        "TRIREEL_DATA_DIR": str(stack.data_dir),
        "TRIREEL_TRITON_ENV": str(ROOT / ".venv-triton"),
    }
    second = subprocess.run(
        [sys.executable, "-m", "orchestrator", "serve"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode != 0
    assert "data_dir_locked" in second.stderr
    assert stack.client.readiness().is_ready


def test_a_late_watcher_sees_every_segment_once_and_exactly_100_percent(stack: Stack, clip: Path) -> None:
    video = stack.client.upload(clip)
    job, live = stack.run_to_end(SubmitJob(video_id=video.id, model=MEAN_COLOUR, every_nth=2))
    late = list(stack.client.follow(job.id))
    ids = [[event.id for event in events if event.id is not None] for events in (live, late)]
    assert ids[0] == ids[1] == sorted(set(ids[1]))
    assert job.progress.percent == 100.0
    assert job.ledger.planned == job.ledger.inferred == FRAMES // 2
    assert job.ledger.skipped == FRAMES // 2
