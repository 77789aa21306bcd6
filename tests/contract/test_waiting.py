"""Every `RunStore`: what keeps a run from going on is known to all, for as long as it does."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from orchestrator.core.records import Failure, Job, Waiting
from orchestrator.core.states import RunState
from orchestrator.core.waiting import LONGEST_PAUSE, NOTED_EVERY
from orchestrator.errors import NotFoundError
from orchestrator.ports import Stores
from tests.contract.scenario import FAILURE, START, Scenario

AWAY = Failure(code="triton_unavailable", message="Triton is away")
NOT_READY = Failure(code="model_not_ready", message="shapes:1 is loading")
PAUSE_S = LONGEST_PAUSE.total_seconds()


async def wait(scenario: Scenario, job: Job, failure: Failure = AWAY, *, took_s: float = 0.0) -> datetime:
    """After one more attempt in vain, which took so long; since when the run waits."""
    tried_at = scenario.now
    now = scenario.later(took_s)
    return await scenario.stores.runs.wait(job.run_id, failure, tried_at=tried_at, now=now)


async def waiting(stores: Stores, job: Job) -> Waiting | None:
    return (await stores.runs.get(job.run_id)).waiting


async def test_a_run_that_waits_says_what_for_and_since_when(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    assert await waiting(stores, job) is None
    assert await wait(scenario, job) == START
    noted = Waiting(code=AWAY.code, message=AWAY.message, since=START, last_seen=START)
    assert await waiting(stores, job) == noted
    assert (await stores.runs.many([job.run_id]))[job.run_id].waiting == noted
    assert (await scenario.lease_one()).run.waiting == noted


async def test_it_goes_on_waiting_whatever_for(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await wait(scenario, job)
    scenario.later(1)
    assert await wait(scenario, job, NOT_READY) == START
    noted = await waiting(stores, job)
    assert noted == Waiting(code=NOT_READY.code, message=NOT_READY.message, since=START, last_seen=scenario.now)


async def test_a_wait_is_noted_anew_now_and_then_and_not_for_every_attempt(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await wait(scenario, job)
    every_s = NOTED_EVERY.total_seconds()
    for seconds, last_seen_s in ((1, 0), (every_s - 2, 0), (1, every_s), (every_s - 1, every_s)):
        scenario.later(seconds)
        assert await wait(scenario, job) == START
        noted = await waiting(stores, job)
        assert noted is not None
        assert noted.last_seen == START + timedelta(seconds=last_seen_s)


async def test_a_commit_ends_the_wait(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await wait(scenario, job)
    assert (await scenario.commit(await scenario.lease_one())).waiting is None
    assert await waiting(stores, job) is None
    scenario.later(1)
    assert await wait(scenario, job) == scenario.now


async def test_time_in_which_nobody_was_at_work_is_no_waiting(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await wait(scenario, job)
    scenario.later(PAUSE_S)
    assert await wait(scenario, job) == START
    again = scenario.later(PAUSE_S + 1)
    assert await wait(scenario, job, NOT_READY) == again
    noted = await waiting(stores, job)
    assert noted is not None
    assert (noted.code, noted.since) == (NOT_READY.code, again)


async def test_an_attempt_that_takes_long_is_waiting(scenario: Scenario) -> None:
    job = await scenario.start()
    await wait(scenario, job)
    for _ in range(3):
        scenario.later(1)
        assert await wait(scenario, job, took_s=10 * PAUSE_S) == START


async def test_runs_that_are_tried_seldom_since_many_wait_go_on_waiting(scenario: Scenario) -> None:
    first, second, third = [await scenario.start(content=content) for content in "abc"]
    for job in (first, second, third):
        await wait(scenario, job, took_s=PAUSE_S - 1)
    assert await wait(scenario, first) == START + timedelta(seconds=PAUSE_S - 1)


async def test_a_run_that_is_admitted_anew_has_not_waited(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await wait(scenario, job)
    await stores.jobs.cancel(job.id, now=scenario.now)
    again = await scenario.submit(await stores.videos.get(job.video_id))
    assert again.run_id == job.run_id
    await scenario.admit()
    assert await waiting(stores, again) is None
    scenario.later(1)
    await wait(scenario, again)
    # A run at work, on the other hand, is joined as it is.
    await scenario.submit(await stores.videos.get(job.video_id))
    await scenario.admit()
    assert await waiting(stores, again) is not None


async def test_a_run_that_failed_waits_for_nothing_and_begins_anew_when_it_is_retried(
    scenario: Scenario, stores: Stores
) -> None:
    job = await scenario.start()
    await scenario.commit(await scenario.lease_one())
    await wait(scenario, job)
    await stores.runs.fail(job.run_id, AWAY, now=scenario.now)
    assert await waiting(stores, job) is None
    scenario.later(1)
    await wait(scenario, job)
    assert await waiting(stores, job) is None
    await stores.jobs.retry(job.id, now=scenario.now)
    run = await stores.runs.get(job.run_id)
    assert (run.state, run.waiting, run.segments_done) == (RunState.OPEN, None, 1)


async def test_a_run_that_is_not_open_waits_for_nothing(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.submit(await scenario.add_video())
    assert await wait(scenario, job, FAILURE) == scenario.now
    assert await waiting(stores, job) is None


async def test_a_deleted_run_is_not_found(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await stores.jobs.remove(job.id)
    with pytest.raises(NotFoundError):
        await wait(scenario, job)
