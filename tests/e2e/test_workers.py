"""An API that leaves the work to workers, on a real PostgreSQL, a real Redis and Celery: it is the same product."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from orchestrator.client import Client, JobAnswer, ProgressBody, SegmentBody, SubmitJob
from tests.support.needs import ROOT
from tests.support.postgres import PostgresServer, postgres_of_session
from tests.support.redis import RedisServer, redis_of_session
from tests.support.stack import RunningWorker, Stack, serving, working

__all__ = ["postgres_of_session", "redis_of_session"]

pytestmark = [pytest.mark.needs("triton"), pytest.mark.needs("postgresql"), pytest.mark.needs("redis")]

# The issue's own bound for a stop.
STOP_LIMIT_S: Final = 10
# The demo: a real network, which takes long enough that a job can be met at work.
REPOSITORY: Final = ROOT / "model_repository"
MODEL: Final = "demo_shapes"
CLIP: Final = ROOT / "export" / "demo" / "clip.mp4"
FRAMES: Final = 250
# Small enough that a job has something for everybody, and that one worker is not done before the others look.
SEGMENT_FRAMES: Final = 5


@dataclass(frozen=True, slots=True)
class Deployment:
    """add_worker: starts one more, until the context that it returns ends."""

    stack: Stack
    redis: RedisServer
    add_worker: Callable[[str], AbstractContextManager[RunningWorker]]

    def run_to_end(self, **more: object) -> JobAnswer:
        """A job of frames that were not inferred before."""
        video = self.stack.client.upload(CLIP)
        job, _ = self.stack.run_to_end(SubmitJob(video_id=video.id, model=MODEL, **more))  # type: ignore[arg-type]
        self.stack.client.delete(job.id)
        return job


@pytest.fixture(scope="module")
def deployment(
    postgres_of_session: PostgresServer,
    redis_of_session: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    postgres_of_session.empty()
    folder = tmp_path_factory.mktemp("deployment")
    urls = {"DATABASE_URL": postgres_of_session.url(), "REDIS_URL": redis_of_session.url()}
    segments = {"SEGMENT_FRAMES": str(SEGMENT_FRAMES), "LEASE_S": "3"}
    with serving(folder / "api", model_repository=REPOSITORY, **urls, **segments) as stack:
        triton_url = stack.client.readiness().triton_url

        def add_worker(name: str) -> AbstractContextManager[RunningWorker]:
            return working(
                folder / name,
                data_dir=stack.data_dir,
                model_repository=REPOSITORY,
                TRITON_URL=triton_url,
                DECODERS="1",
                **urls,
                **segments,
            )

        yield Deployment(stack, redis_of_session, add_worker)


@pytest.fixture(scope="module")
def workers(deployment: Deployment) -> Iterator[tuple[RunningWorker, RunningWorker]]:
    with ExitStack() as stack:
        one, other = (stack.enter_context(deployment.add_worker(f"worker-{number}")) for number in range(2))
        yield one, other


def test_a_job_waits_for_its_first_worker_and_the_api_says_so(deployment: Deployment) -> None:
    client = deployment.stack.client
    readiness = client.readiness()
    assert readiness.is_ready
    assert any("trireel worker" in reason for reason in readiness.reasons)
    job = client.submit(SubmitJob(video_id=client.upload(CLIP).id, model=MODEL, every_nth=10))
    with deployment.add_worker("first"):
        events = list(client.follow(job.id))
    assert client.job(job.id).state == "succeeded"
    assert sum(event.body.inferred for event in events if isinstance(event.body, SegmentBody)) == FRAMES // 10
    client.delete(job.id)


def test_one_video_is_worked_on_by_all_workers_and_gives_what_one_process_gives(
    deployment: Deployment, workers: tuple[RunningWorker, RunningWorker], tmp_path: Path
) -> None:
    before = [worker.frames_inferred() for worker in workers]
    client = deployment.stack.client
    order = SubmitJob(video_id=client.upload(CLIP).id, model=MODEL)
    job, _ = deployment.stack.run_to_end(order)
    assert (job.state, job.ledger.inferred) == ("succeeded", FRAMES)
    done = [worker.frames_inferred() - then for worker, then in zip(workers, before, strict=True)]
    assert sum(done) == FRAMES
    assert min(done) >= SEGMENT_FRAMES
    with serving(tmp_path, model_repository=REPOSITORY) as stack:
        alone, _ = stack.run_to_end(SubmitJob(video_id=stack.client.upload(CLIP).id, model=MODEL))
        assert list(client.frames(job.id)) == list(stack.client.frames(alone.id))
    client.delete(job.id)


def test_a_follower_sees_progress_and_every_segment_once(
    deployment: Deployment, workers: tuple[RunningWorker, RunningWorker]
) -> None:
    client = deployment.stack.client
    job = client.submit(SubmitJob(video_id=client.upload(CLIP).id, model=MODEL))
    live = list(client.follow(job.id))
    late = list(client.follow(job.id))
    ids = [[event.id for event in events if event.id is not None] for events in (live, late)]
    assert ids[0] == ids[1] == sorted(set(ids[0]))
    segments = [event.body.segment for event in live if isinstance(event.body, SegmentBody)]
    assert sorted(segments) == list(range(len(segments)))
    done = [event.body.frames_done for event in live if isinstance(event.body, ProgressBody)]
    assert done == sorted(done)
    assert done[-1] == FRAMES
    assert len(set(done)) > 2
    client.delete(job.id)


def test_redis_may_be_lost_in_the_middle_of_a_job(
    deployment: Deployment, workers: tuple[RunningWorker, RunningWorker]
) -> None:
    client = deployment.stack.client
    job = client.submit(SubmitJob(video_id=client.upload(CLIP).id, model=MODEL))
    segments: list[int] = []
    for event in client.follow(job.id):
        if isinstance(event.body, SegmentBody):
            segments.append(event.body.segment)
            if len(segments) == 3:
                deployment.redis.crash()
    try:
        assert client.job(job.id).state == "succeeded"
        assert sorted(segments) == list(range(len(segments)))
        assert any("Redis" in reason for reason in client.readiness().reasons)
        # A job that comes while Redis is away: workers look by themselves.
        assert deployment.run_to_end(every_nth=7).state == "succeeded"
    finally:
        deployment.redis.start()
    assert deployment.run_to_end(every_nth=11).state == "succeeded"
    client.delete(job.id)


def submit_and_see_begin(client: Client) -> JobAnswer:
    """A job over the whole clip, of which a segment is there."""
    job = client.submit(SubmitJob(video_id=client.upload(CLIP).id, model=MODEL))
    for event in client.follow(job.id):
        if isinstance(event.body, SegmentBody):
            return job
    raise AssertionError(f"{job.id} ended without a segment")


def test_sigterm_hands_segments_back_and_ends_with_0(
    deployment: Deployment, workers: tuple[RunningWorker, RunningWorker]
) -> None:
    client = deployment.stack.client
    with deployment.add_worker("leaving") as leaving:
        job = submit_and_see_begin(client)
        leaving.program.process.send_signal(signal.SIGTERM)
        assert leaving.program.process.wait(STOP_LIMIT_S) == 0
    for _ in client.follow(job.id):
        pass
    ended = client.job(job.id)
    assert (ended.state, ended.ledger.inferred) == ("succeeded", FRAMES)
    client.delete(job.id)


def test_a_worker_that_is_killed_costs_nothing_but_time(
    deployment: Deployment, workers: tuple[RunningWorker, RunningWorker]
) -> None:
    client = deployment.stack.client
    with deployment.add_worker("victim") as victim:
        job = submit_and_see_begin(client)
        victim.program.process.kill()
        victim.program.process.wait()
    segments = [event.body.segment for event in client.follow(job.id) if isinstance(event.body, SegmentBody)]
    ended = client.job(job.id)
    assert (ended.state, ended.ledger.inferred, ended.ledger.failed) == ("succeeded", FRAMES, 0)
    assert sorted(segments) == list(range(len(segments)))
    client.delete(job.id)


def test_a_cancelled_job_lets_go_of_workers_elsewhere(
    deployment: Deployment, workers: tuple[RunningWorker, RunningWorker]
) -> None:
    client = deployment.stack.client
    job = client.submit(SubmitJob(video_id=client.upload(CLIP).id, model=MODEL))
    for event in client.follow(job.id):
        if isinstance(event.body, SegmentBody):
            client.cancel(job.id)
    assert client.job(job.id).state == "cancelled"
    client.delete(job.id)


def test_a_worker_without_a_database_to_share_says_what_to_set(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"ended with 2(.|\n)*settings_invalid(.|\n)*TRIREEL_DATABASE_URL"),
        working(tmp_path, data_dir=tmp_path / "data", model_repository=REPOSITORY),
    ):
        pass
