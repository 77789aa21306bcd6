"""A submit that is sent often makes one job, and a job that ended early goes on where it stopped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from orchestrator.client import Client, SegmentBody, SubmitJob
from tests.support.stack import Stack, serving
from tests.support.triton import MEAN_COLOUR
from tests.support.videos import FRAMES, WHOLE, make_video

pytestmark = pytest.mark.needs("triton")

PARALLEL = 50


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(WHOLE[0], tmp_path_factory.mktemp("videos"))


def test_submits_at_once_under_one_key_make_one_job(stack: Stack, clip: Path) -> None:
    body = {"video_id": stack.client.upload(clip).id, "model": MEAN_COLOUR, "every_nth": 10}

    def submit(_: int) -> tuple[int, str, bool]:
        answer = httpx.post(f"{stack.url}/v1/jobs", json=body, headers={"Idempotency-Key": "once"}, timeout=60)
        return answer.status_code, answer.json()["id"], "idempotency-replayed" in answer.headers

    with ThreadPoolExecutor(PARALLEL) as threads:
        answers = list(threads.map(submit, range(PARALLEL)))
    assert {(status, job_id) for status, job_id, _ in answers} == {(202, answers[0][1])}
    assert sum(is_replayed for *_, is_replayed in answers) == PARALLEL - 1
    with Client(stack.url) as client:
        jobs = [job for job in client.jobs(limit=100).items if job.video.id == body["video_id"]]
    assert [job.id for job in jobs] == [answers[0][1]]


def test_a_cancelled_job_goes_on_where_it_stopped(quick_repository: Path, tmp_path: Path, clip: Path) -> None:
    with serving(tmp_path, model_repository=quick_repository, SEGMENT_FRAMES="1") as stack:
        client = stack.client
        job_id = client.submit(SubmitJob(video_id=client.upload(clip).id, model=MEAN_COLOUR)).id
        seen = []
        for event in client.follow(job_id):
            seen.append(event)
            if len(seen) == 5:
                client.cancel(job_id)
        cancelled = client.job(job_id)
        assert cancelled.state == "cancelled"
        retried = client.retry(job_id)
        assert (retried.state, retried.attempt) == ("queued", 2)
        assert retried.ledger.inferred >= cancelled.ledger.inferred
        last_id = max(event.id for event in seen if event.id is not None)
        seen += client.follow(job_id, last_event_id=last_id)
        job = client.job(job_id)
        assert (job.state, job.ledger.inferred, len([*client.frames(job_id)])) == ("succeeded", FRAMES, FRAMES)
        segments = [event.body.segment for event in seen if isinstance(event.body, SegmentBody)]
        assert sorted(segments) == list(range(FRAMES))


def test_a_job_over_its_time_limit_fails_with_a_code_of_its_own_and_its_run_can_go_on(
    quick_repository: Path, tmp_path: Path, clip: Path
) -> None:
    with serving(tmp_path, model_repository=quick_repository, SEGMENT_FRAMES="1") as stack:
        client = stack.client
        video_id = client.upload(clip).id
        order = SubmitJob(video_id=video_id, model=MEAN_COLOUR, timeout_s=0.001)
        job, _ = stack.run_to_end(order)
        assert (job.state, job.error.code if job.error else None) == ("failed", "job_timeout")
        assert len([*client.frames(job.id)]) < FRAMES
        whole, _ = stack.run_to_end(SubmitJob(video_id=video_id, model=MEAN_COLOUR))
        assert (whole.state, whole.ledger.inferred) == ("succeeded", FRAMES)
        assert client.retry(job.id).state == "succeeded"
