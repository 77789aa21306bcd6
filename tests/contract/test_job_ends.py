"""Every `JobStore`: cancelling and deleting in each state of the table, twice, and while the run ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from orchestrator.core.records import EventKind, Job
from orchestrator.core.states import JobState
from orchestrator.errors import JobNotFoundError, LeaseLostError, NotFoundError, TransitionError
from orchestrator.ports import Stores
from tests.contract.scenario import FAILURE, Scenario

AFTER_CANCEL: Final = {
    JobState.QUEUED: JobState.CANCELLED,
    JobState.RUNNING: JobState.CANCELLING,
    JobState.CANCELLING: JobState.CANCELLING,
    JobState.SUCCEEDED: JobState.SUCCEEDED,
    JobState.FAILED: JobState.FAILED,
    JobState.CANCELLED: JobState.CANCELLED,
}


async def job_in(scenario: Scenario, state: JobState) -> Job:
    """A job in `state`, with a segment at work where the state allows it."""
    jobs = scenario.stores.jobs
    if state is JobState.QUEUED:
        return await scenario.submit(await scenario.add_video())
    job = await scenario.start(segments=2)
    if state is JobState.SUCCEEDED:
        await scenario.finish(job)
        return await jobs.get(job.id)
    await scenario.commit(await scenario.lease_one())
    leased = await scenario.lease_one()
    if state is JobState.FAILED:
        await scenario.stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    if state in (JobState.CANCELLING, JobState.CANCELLED):
        await jobs.cancel(job.id, now=scenario.now)
    if state is JobState.CANCELLED:
        await scenario.stores.runs.hand_back(leased.lease)
        await jobs.settle_cancelled(now=scenario.now)
    return await jobs.get(job.id)


async def ends_told(stores: Stores, job: Job) -> list[object]:
    events = await stores.events.after(job, last_id=0, limit=100)
    return [event.body["state"] for event in events if event.kind is EventKind.DONE]


@pytest.mark.parametrize("state", JobState)
async def test_a_job_is_cancelled_in_every_state_and_twice(scenario: Scenario, stores: Stores, state: JobState) -> None:
    job = await job_in(scenario, state)
    assert job.state is state
    scenario.later(1)
    once, has_moved = await stores.jobs.cancel(job.id, now=scenario.now)
    assert (once.state, has_moved) == (AFTER_CANCEL[state], AFTER_CANCEL[state] is not state)
    assert await stores.jobs.cancel(job.id, now=scenario.now) == (once, False)
    assert once == await stores.jobs.get(job.id)
    scenario.later(61)
    await stores.jobs.settle_cancelled(now=scenario.now)
    ended = await stores.jobs.get(job.id)
    assert ended.state.is_terminal
    assert await ends_told(stores, job) == [ended.state.value]


@pytest.mark.parametrize("state", JobState)
async def test_a_job_is_deleted_in_every_state_and_once(scenario: Scenario, stores: Stores, state: JobState) -> None:
    job = await job_in(scenario, state)
    assert await stores.jobs.remove(job.id) == job.run_id
    for again in (stores.jobs.remove(job.id), stores.jobs.get(job.id)):
        with pytest.raises(JobNotFoundError):
            await again
    assert (await stores.runs.ids(), await stores.events.done_id(job.id)) == (frozenset(), None)
    await stores.videos.remove(job.video_id)


@pytest.mark.parametrize("state", JobState)
async def test_what_is_left_of_a_deleted_job_is_nobodys(scenario: Scenario, stores: Stores, state: JobState) -> None:
    job = await job_in(scenario, state)
    other = await scenario.submit(await stores.videos.get(job.video_id), every_nth=9)
    await stores.jobs.remove(job.id)
    for moved in (
        await stores.jobs.settle_cancelled(now=scenario.now),
        await stores.jobs.expire(now=scenario.now),
        await stores.runs.to_finalize(),
    ):
        assert list(moved) == []
    assert [each.id for each in await scenario.admit()] == [other.id]
    assert await scenario.lease() is None


async def finalizing(scenario: Scenario) -> Job:
    """A running job whose run is about to succeed."""
    job = await scenario.start()
    await scenario.work_to_the_end()
    await scenario.stores.runs.to_finalize()
    return job


async def test_a_job_that_is_cancelled_while_its_run_succeeds_has_one_end(scenario: Scenario, stores: Stores) -> None:
    job = await finalizing(scenario)
    await asyncio.gather(
        stores.jobs.cancel(job.id, now=scenario.now),
        stores.runs.succeed(job.run_id, now=scenario.now),
        stores.jobs.settle_cancelled(now=scenario.now),
        stores.jobs.cancel(job.id, now=scenario.now),
    )
    await stores.jobs.settle_cancelled(now=scenario.now)
    ended = await stores.jobs.get(job.id)
    assert ended.state in (JobState.SUCCEEDED, JobState.CANCELLED)
    assert await ends_told(stores, job) == [ended.state.value]


async def test_a_cancelling_job_whose_run_succeeds_first_has_succeeded(scenario: Scenario, stores: Stores) -> None:
    job = await finalizing(scenario)
    await stores.jobs.cancel(job.id, now=scenario.now)
    assert [each.state for each in await stores.runs.succeed(job.run_id, now=scenario.now)] == [JobState.SUCCEEDED]
    assert await stores.jobs.settle_cancelled(now=scenario.now) == []


async def test_a_cancelling_job_that_is_settled_first_stays_cancelled(scenario: Scenario, stores: Stores) -> None:
    job = await finalizing(scenario)
    await stores.jobs.cancel(job.id, now=scenario.now)
    assert len(await stores.jobs.settle_cancelled(now=scenario.now)) == 1
    assert await stores.runs.succeed(job.run_id, now=scenario.now) == []
    assert (await stores.jobs.get(job.id)).state is JobState.CANCELLED


async def test_a_job_that_is_deleted_while_its_run_ends_leaves_nothing(scenario: Scenario, stores: Stores) -> None:
    ends: list[Callable[[str], Awaitable[object]]] = [
        lambda run_id: stores.runs.succeed(run_id, now=scenario.now),
        lambda run_id: stores.runs.fail(run_id, FAILURE, now=scenario.now),
    ]
    for end in ends:
        job = await finalizing(scenario)
        await stores.jobs.remove(job.id)
        with pytest.raises(NotFoundError):
            await end(job.run_id)
        assert await stores.runs.ids() == frozenset()


async def test_a_segment_that_is_committed_after_its_job_was_deleted_is_dropped(
    scenario: Scenario, stores: Stores
) -> None:
    job = await scenario.start()
    leased = await scenario.lease_one()
    await stores.jobs.remove(job.id)
    assert not await stores.runs.is_wanted(job.run_id)
    with pytest.raises(LeaseLostError):
        await scenario.commit(leased)
    assert not await stores.runs.hand_back(leased.lease)


async def test_of_many_deletes_at_once_one_finds_the_job(scenario: Scenario, stores: Stores) -> None:
    job = await job_in(scenario, JobState.RUNNING)
    found = await asyncio.gather(*(stores.jobs.remove(job.id) for _ in range(8)), return_exceptions=True)
    assert found.count(job.run_id) == 1
    assert [type(each) for each in found].count(JobNotFoundError) == 7


async def test_of_many_retries_at_once_one_wins(scenario: Scenario, stores: Stores) -> None:
    job = await job_in(scenario, JobState.FAILED)
    tries = (stores.jobs.retry(job.id, now=scenario.now) for _ in range(8))
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(each) for each in answers].count(TransitionError) == 7
    assert (await stores.jobs.get(job.id)).attempt == 2
