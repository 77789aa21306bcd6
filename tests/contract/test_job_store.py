"""Every `JobStore`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.records import EventKind
from orchestrator.core.states import JobState, RunState
from orchestrator.core.types import Ledger, ModelVersion, View
from orchestrator.errors import CursorInvalidError, JobNotFoundError, NotFoundError, VideoNotFoundError
from orchestrator.ports import Stores
from tests.contract.scenario import CARD, FAILURE, MODEL, START, Scenario


async def test_a_job_comes_back_as_it_was_submitted(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    view = View(min_confidence=0.4, iou=0.6, class_ids=frozenset({0, 1}), max_det=9)
    job = await scenario.submit(video, view=view, priority=7, timeout_s=1.5, tags=("night", "Süd"))
    assert await stores.jobs.get(job.id) == job
    assert (job.state, job.view, job.priority, job.timeout_s) == (JobState.QUEUED, view, 7, 1.5)
    assert (job.tags, job.video_id, job.owner, job.created_at) == (("night", "Süd"), video.id, "ann", START)
    run = await stores.runs.get(job.run_id)
    assert (run.state, run.card, run.video_id, run.spec.model) == (RunState.WAITING, CARD, video.id, MODEL)
    assert run.ledger == Ledger()
    assert await stores.runs.ids() == {run.id}


async def test_an_unknown_job_is_not_found(scenario: Scenario, stores: Stores) -> None:
    with pytest.raises(JobNotFoundError):
        await stores.jobs.get("job_0")
    with pytest.raises(JobNotFoundError):
        await stores.jobs.cancel("job_0", now=scenario.now)
    with pytest.raises(JobNotFoundError):
        await stores.jobs.remove("job_0")


async def test_a_job_of_a_video_that_is_gone_is_refused_and_leaves_nothing(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    await stores.videos.remove(video.id)
    with pytest.raises(VideoNotFoundError):
        await scenario.submit(video)
    assert await stores.runs.ids() == frozenset()


async def test_jobs_of_one_spec_share_a_run_also_over_two_uploads(scenario: Scenario, stores: Stores) -> None:
    one, same, other = [await scenario.add_video(content=content) for content in "aab"]
    first = await scenario.submit(one)
    assert (await scenario.submit(same, priority=1)).run_id == first.run_id
    assert (await scenario.submit(one, every_nth=2)).run_id != first.run_id
    assert (await scenario.submit(other)).run_id != first.run_id
    assert (await scenario.submit(one, model=ModelVersion("shapes", 2, "f" * 64))).run_id != first.run_id
    assert [job.video_id for job in await stores.jobs.of_run(first.run_id)] == [one.id, same.id]


async def test_a_run_that_failed_is_not_found_again(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    job = await scenario.submit(video)
    await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    assert (await scenario.submit(video)).run_id != job.run_id


async def test_a_job_whose_run_has_succeeded_is_answered_with_its_events(scenario: Scenario, stores: Stores) -> None:
    first = await scenario.start(segments=1)
    await scenario.finish(first)
    scenario.later(10)
    job = await scenario.submit(await stores.videos.get(first.video_id))
    assert job == await stores.jobs.get(job.id)
    assert (job.run_id, job.state) == (first.run_id, JobState.SUCCEEDED)
    assert job.started_at == job.finished_at == scenario.now
    events = await stores.events.after(job, last_id=0, limit=100)
    assert [event.kind for event in events] == [EventKind.SEGMENT, EventKind.STATE, EventKind.STATE, EventKind.DONE]
    assert events[-1].body["state"] == "succeeded"


async def test_pages_are_filtered_by_state_and_model(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    jobs = [await scenario.submit(video, model=ModelVersion("shapes", n, str(n) * 64)) for n in (1, 2)]
    other = await scenario.submit(video, model=ModelVersion("cars:eu", 1, "9" * 64))
    await stores.jobs.cancel(jobs[0].id, now=scenario.now)

    async def ids(*, states: set[JobState] = set(), model: str | None = None) -> list[str]:  # noqa: B006  # only read
        page = await stores.jobs.page(limit=10, cursor=None, states=states, model=model)
        return [job.id for job in page.items]

    assert await ids() == [other.id, jobs[1].id, jobs[0].id]
    assert await ids(states={JobState.QUEUED}) == [other.id, jobs[1].id]
    assert await ids(states={JobState.QUEUED, JobState.CANCELLED}, model="shapes") == [jobs[1].id, jobs[0].id]
    assert await ids(model="shapes:1") == [jobs[0].id]
    assert await ids(model="shapes:3") == []
    assert await ids(model="cars:eu") == await ids(model="cars:eu:1") == [other.id]


async def test_a_cursor_holds_under_a_filter(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    jobs = [await scenario.submit(video) for _ in range(4)]
    await stores.jobs.cancel(jobs[2].id, now=scenario.now)
    first = await stores.jobs.page(limit=2, cursor=None, states=[JobState.QUEUED])
    second = await stores.jobs.page(limit=2, cursor=first.next_cursor, states=[JobState.QUEUED])
    assert [job.id for job in (*first.items, *second.items)] == [jobs[3].id, jobs[1].id, jobs[0].id]
    assert second.next_cursor is None
    with pytest.raises(CursorInvalidError):
        await stores.jobs.page(limit=2, cursor="nonsense")


async def test_the_queue_goes_by_priority_and_then_by_age(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    low, first, second = [await scenario.submit(video, priority=priority) for priority in (10, 50, 50)]
    ids = {job.id for job in (low, first, second)}
    assert await stores.jobs.queue_positions(ids) == {first.id: 1, second.id: 2, low.id: 3}
    assert await stores.jobs.queue_positions({low.id, "job_0"}) == {low.id: 3}
    assert await stores.jobs.queue_positions(()) == {}
    admitted = await scenario.admit(max_running=2)
    assert [job.id for job in admitted] == [first.id, second.id]
    assert all(job.state is JobState.RUNNING and job.started_at == scenario.now for job in admitted)
    assert await stores.jobs.queue_positions(ids) == {low.id: 1}
    assert await scenario.admit(max_running=2) == []
    assert await scenario.admit(max_running=1) == []
    counts = await stores.jobs.counts()
    assert counts == dict.fromkeys(JobState, 0) | {JobState.QUEUED: 1, JobState.RUNNING: 2}


async def test_a_queued_job_is_cancelled_at_once(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.submit(await scenario.add_video())
    scenario.later(1)
    cancelled, has_moved = await stores.jobs.cancel(job.id, now=scenario.now)
    assert has_moved
    assert cancelled == replace(job, state=JobState.CANCELLED, finished_at=scenario.now)
    scenario.later(1)
    assert await stores.jobs.cancel(job.id, now=scenario.now) == (cancelled, False)


async def test_a_running_job_is_cancelled_when_its_segments_were_let_go(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    leased = await scenario.lease_one()
    for has_moved in (True, False):
        cancelling, moved = await stores.jobs.cancel(job.id, now=scenario.now)
        assert (cancelling.state, moved) == (JobState.CANCELLING, has_moved)
    assert await stores.jobs.settle_cancelled(now=scenario.now) == []
    await stores.runs.hand_back(leased.lease)
    settled = await stores.jobs.settle_cancelled(now=scenario.now)
    assert [(each.id, each.state) for each in settled] == [(job.id, JobState.CANCELLED)]
    assert await stores.jobs.settle_cancelled(now=scenario.now) == []


async def test_a_cancelled_job_does_not_wait_for_segments_that_another_job_wants(
    scenario: Scenario, stores: Stores
) -> None:
    job = await scenario.start()
    other = await scenario.submit(await stores.videos.get(job.video_id))
    await scenario.admit()
    await scenario.lease_one()
    await stores.jobs.cancel(job.id, now=scenario.now)
    assert [each.id for each in await stores.jobs.settle_cancelled(now=scenario.now)] == [job.id]
    await stores.jobs.cancel(other.id, now=scenario.now)
    assert await stores.jobs.settle_cancelled(now=scenario.now) == []


async def test_a_cancelled_job_does_not_wait_for_a_worker_that_is_gone(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await scenario.lease_one()
    await stores.jobs.cancel(job.id, now=scenario.now)
    scenario.later(61)
    assert [each.id for each in await stores.jobs.settle_cancelled(now=scenario.now)] == [job.id]


async def test_only_running_jobs_run_out_of_time(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    patient = await scenario.submit(video)
    late = await scenario.submit(video, timeout_s=10, priority=60)
    queued = await scenario.submit(video, timeout_s=10, priority=1)
    scenario.later(100)
    await scenario.admit(max_running=2)
    scenario.later(9.999)
    assert await stores.jobs.expire(now=scenario.now) == []
    scenario.later(0.001)
    expired = await stores.jobs.expire(now=scenario.now)
    assert [(job.id, job.state) for job in expired] == [(late.id, JobState.FAILED)]
    assert expired[0].failure is not None
    assert expired[0].failure.code == "job_timeout"
    assert expired[0].finished_at == scenario.now
    assert await stores.jobs.expire(now=scenario.now) == []
    states = [(await stores.jobs.get(job.id)).state for job in (patient, queued)]
    assert states == [JobState.RUNNING, JobState.QUEUED]


async def test_the_last_job_takes_its_run_along(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    other = await scenario.submit(await stores.videos.get(job.video_id))
    leased = await scenario.lease_one()
    await scenario.commit(leased)
    assert await stores.jobs.remove(job.id) is None
    assert await stores.runs.ids() == {job.run_id}
    assert await stores.jobs.remove(other.id) == job.run_id
    assert await stores.runs.ids() == frozenset()
    with pytest.raises(NotFoundError):
        await stores.runs.get(job.run_id)
    assert len(await scenario.read_parts(job.run_id)) == 0
    assert await stores.events.of_all_jobs_after(last_id=0, limit=100) == []
