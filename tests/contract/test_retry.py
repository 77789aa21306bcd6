"""Every `JobStore`: jobs that are tried once more."""

from __future__ import annotations

import pytest

from orchestrator.core.records import EventKind, Job
from orchestrator.core.states import JobState, RunState
from orchestrator.errors import JobNotFoundError, TransitionError
from orchestrator.ports import Stores
from tests.contract.scenario import FAILURE, Scenario

SEGMENTS = 3


async def retried(scenario: Scenario, job: Job) -> Job:
    queued, _ = await scenario.stores.jobs.retry(job.id, now=scenario.now)
    assert queued == await scenario.stores.jobs.get(job.id)
    return queued


async def half_done(scenario: Scenario) -> Job:
    """A running job with one of its segments committed."""
    job = await scenario.start(segments=SEGMENTS)
    await scenario.commit(await scenario.lease_one())
    return job


async def segments_told(stores: Stores, job: Job) -> list[object]:
    events = await stores.events.after(job, last_id=0, limit=100)
    return [event.body["segment"] for event in events if event.kind is EventKind.SEGMENT]


async def test_a_job_whose_run_failed_goes_on_where_it_stopped(scenario: Scenario, stores: Stores) -> None:
    job = await half_done(scenario)
    await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    scenario.later(5)
    queued = await retried(scenario, job)
    assert (queued.state, queued.attempt, queued.run_id) == (JobState.QUEUED, 2, job.run_id)
    assert (queued.failure, queued.started_at, queued.finished_at) == (None, None, None)
    run = await stores.runs.get(job.run_id)
    assert (run.state, run.failure, run.finished_at, run.segments_done) == (RunState.OPEN, None, None, 1)
    assert await scenario.lease() is None
    await scenario.admit()
    assert (await scenario.lease_one()).plan.number == 1
    scenario.later(61)
    [ended] = await scenario.finish(queued)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2)
    assert await segments_told(stores, job) == [0, 1, 2]
    assert len(await scenario.read_archive(job.run_id)) > 0


async def test_a_job_that_was_cancelled_or_ran_out_of_time_goes_on_where_it_stopped(
    scenario: Scenario, stores: Stores
) -> None:
    job = await half_done(scenario)
    await stores.jobs.cancel(job.id, now=scenario.now)
    await stores.jobs.settle_cancelled(now=scenario.now)
    assert (await retried(scenario, job)).attempt == 2
    await scenario.admit()
    assert (await scenario.lease_one()).plan.number == 1


async def test_the_end_of_an_attempt_is_not_told_any_more_and_ids_go_on(scenario: Scenario, stores: Stores) -> None:
    job = await half_done(scenario)
    await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    done_id = await stores.events.done_id(job.id)
    assert done_id is not None
    await retried(scenario, job)
    assert await stores.events.done_id(job.id) is None
    events = await stores.events.after(job, last_id=0, limit=100)
    states = [(event.body["state"], event.body["attempt"]) for event in events if event.kind is EventKind.STATE]
    assert states == [("queued", 1), ("running", 1), ("failed", 1), ("queued", 2)]
    assert EventKind.DONE not in [event.kind for event in events]
    [queued] = await stores.events.after(job, last_id=done_id, limit=100)
    assert queued.body == {"job_id": job.id, "state": "queued", "attempt": 2}


async def test_time_runs_anew(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.submit(await scenario.add_video(), timeout_s=10)
    await scenario.admit()
    scenario.later(10)
    assert len(await stores.jobs.expire(now=scenario.now)) == 1
    await retried(scenario, job)
    await scenario.admit()
    scenario.later(9)
    assert await stores.jobs.expire(now=scenario.now) == []
    scenario.later(1)
    assert [each.attempt for each in await stores.jobs.expire(now=scenario.now)] == [2]


async def test_a_job_whose_run_others_finished_succeeds_at_once(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    other = await scenario.submit(await stores.videos.get(job.video_id))
    await scenario.admit()
    await stores.jobs.cancel(job.id, now=scenario.now)
    await stores.jobs.settle_cancelled(now=scenario.now)
    await scenario.finish(other)
    assert (await retried(scenario, job)).state is JobState.SUCCEEDED
    events = await stores.events.after(job, last_id=0, limit=100)
    assert [event.kind for event in events].count(EventKind.DONE) == 1


async def test_a_run_with_nothing_to_keep_is_made_anew(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    queued, orphan = await stores.jobs.retry(job.id, now=scenario.now)
    assert orphan == job.run_id
    assert await stores.runs.ids() == {queued.run_id} != {job.run_id}
    assert (await stores.runs.get(queued.run_id)).state is RunState.WAITING


async def test_a_run_whose_results_were_lost_is_made_anew(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    cancelled = await scenario.submit(await stores.videos.get(job.video_id))
    await stores.jobs.cancel(cancelled.id, now=scenario.now)
    await scenario.finish(job)
    await stores.runs.lose_results(job.run_id, FAILURE)
    queued, orphan = await stores.jobs.retry(cancelled.id, now=scenario.now)
    assert (queued.state, queued.run_id == job.run_id, orphan) == (JobState.QUEUED, False, None)


async def test_a_run_that_was_begun_again_meanwhile_is_joined(scenario: Scenario, stores: Stores) -> None:
    job = await half_done(scenario)
    await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    newer = await scenario.submit(await stores.videos.get(job.video_id))
    queued, orphan = await stores.jobs.retry(job.id, now=scenario.now)
    assert (queued.run_id, orphan) == (newer.run_id, job.run_id)


async def test_only_failed_and_cancelled_jobs_are_retried(scenario: Scenario, stores: Stores) -> None:
    async def refused(job: Job) -> None:
        before = await stores.jobs.get(job.id)
        with pytest.raises(TransitionError):
            await stores.jobs.retry(job.id, now=scenario.now)
        assert await stores.jobs.get(job.id) == before

    await refused(await scenario.submit(await scenario.add_video()))
    running = await scenario.start()
    await refused(running)
    await scenario.lease_one()
    await stores.jobs.cancel(running.id, now=scenario.now)
    await refused(running)
    succeeded = await scenario.start(content="b")
    await scenario.finish(succeeded)
    await refused(succeeded)
    with pytest.raises(JobNotFoundError):
        await stores.jobs.retry("job_0", now=scenario.now)


async def test_a_worker_of_the_attempt_before_cannot_commit(scenario: Scenario, stores: Stores) -> None:
    job = await half_done(scenario)
    stale = await scenario.lease_one()
    await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    await retried(scenario, job)
    await scenario.admit()
    assert not await stores.runs.hand_back(stale.lease)
    fresh = await scenario.lease_one()
    assert (fresh.plan.number, fresh.lease.attempt) == (stale.plan.number, stale.lease.attempt + 1)
