"""Every `RunStore`."""

from __future__ import annotations

import pytest

from orchestrator.core.records import EventKind
from orchestrator.core.states import JobState, RunState
from orchestrator.core.types import Ledger
from orchestrator.errors import LeaseLostError, NotFoundError, TransitionError
from orchestrator.ports import Stores
from tests.contract.scenario import FAILURE, LEASE, REPORT, Scenario, plans_of


async def test_an_unknown_run_is_not_found(scenario: Scenario, stores: Stores) -> None:
    with pytest.raises(NotFoundError):
        await stores.runs.get("run_0")
    with pytest.raises(NotFoundError):
        await stores.runs.fail("run_0", FAILURE, now=scenario.now)
    assert await stores.runs.many(["run_0"]) == {}
    assert await stores.runs.many([]) == {}
    assert not await stores.runs.is_wanted("run_0")


async def test_a_run_is_planned_when_a_job_runs_and_the_index_is_made(scenario: Scenario, stores: Stores) -> None:
    pending, ready = await scenario.add_video(is_indexed=False), await scenario.add_video(content="b")
    jobs = [await scenario.submit(video) for video in (pending, ready)]
    assert await stores.runs.to_plan() == []
    await scenario.admit()
    assert [run.id for run in await stores.runs.to_plan()] == [jobs[1].run_id]
    await stores.videos.set_index_failed(pending.id, FAILURE)
    assert [run.id for run in await stores.runs.to_plan()] == [job.run_id for job in jobs]
    await scenario.open_run(jobs[1])
    assert [run.id for run in await stores.runs.to_plan()] == [jobs[0].run_id]


async def test_opening_stores_the_plan_and_a_second_time_changes_nothing(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=3, frames=4)
    run = await stores.runs.get(job.run_id)
    assert (run.state, run.frames_total, run.segments_total, run.segments_done) == (RunState.OPEN, 12, 3, 0)
    assert run.ledger == Ledger(planned=12, skipped=7)
    assert (run.warnings, run.notes) == (("input_ends_early",), ("vfr",))
    await scenario.lease_one()
    leased = await stores.runs.get(job.run_id)
    await scenario.open_run(job, segments=9, frames=9)
    assert await stores.runs.get(job.run_id) == leased


async def test_a_lease_brings_all_that_working_needs(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=2)
    first = await scenario.lease_one()
    assert (first.lease.run_id, first.lease.segment, first.lease.attempt) == (job.run_id, 0, 1)
    assert (first.lease.until, first.strikes, first.plan) == (scenario.now + LEASE, 0, plans_of(2, 4)[0])
    assert first.run == await stores.runs.get(job.run_id)
    assert (await scenario.lease_one()).plan == plans_of(2, 4)[1]
    assert await scenario.lease() is None


async def test_the_segment_after_the_one_just_ended_is_preferred_within_its_run(scenario: Scenario) -> None:
    await scenario.start(segments=6)
    first, second = await scenario.lease_one(), await scenario.lease_one()
    third = await scenario.lease_one(after=second)
    assert [each.plan.number for each in (first, second, third)] == [0, 1, 2]
    # Segment 1 is taken, so whoever ended segment 0 gets the first free one.
    assert (await scenario.lease_one(after=first)).plan.number == 3
    fourth = await scenario.lease_one(after=third)
    assert fourth.plan.number == 4


async def test_nobody_leases_what_no_running_job_wants(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    assert await stores.runs.is_wanted(job.run_id)
    await stores.jobs.cancel(job.id, now=scenario.now)
    assert not await stores.runs.is_wanted(job.run_id)
    assert await scenario.lease() is None


async def test_a_segment_is_free_where_a_lease_would_find_one(scenario: Scenario, stores: Stores) -> None:
    assert not await stores.runs.has_free_segment(now=scenario.now)
    job = await scenario.start(segments=1)
    assert await stores.runs.has_free_segment(now=scenario.now)
    await scenario.lease_one()
    assert not await stores.runs.has_free_segment(now=scenario.now)
    assert await stores.runs.has_free_segment(now=scenario.now + LEASE)
    await stores.jobs.cancel(job.id, now=scenario.now)
    assert not await stores.runs.has_free_segment(now=scenario.now + LEASE)


async def test_a_run_that_is_wanted_again_goes_on_where_it_stopped(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=3)
    await scenario.commit(await scenario.lease_one())
    await stores.jobs.cancel(job.id, now=scenario.now)
    await stores.jobs.settle_cancelled(now=scenario.now)
    again = await scenario.submit(await stores.videos.get(job.video_id))
    assert again.run_id == job.run_id
    await scenario.admit()
    assert (await scenario.lease_one()).plan.number == 1


async def test_runs_share_frames_in_proportion_to_their_priorities(scenario: Scenario) -> None:
    heavy = await scenario.start(segments=40, priority=60, content="a")
    light = await scenario.start(segments=40, priority=20, content="b")
    leased = [(await scenario.lease_one()).run.id for _ in range(24)]
    assert abs(leased.count(heavy.run_id) - 18) <= 1
    assert abs(leased.count(light.run_id) - 6) <= 1


async def test_a_run_weighs_as_much_as_the_highest_priority_of_its_running_jobs(
    scenario: Scenario, stores: Stores
) -> None:
    low = await scenario.start(segments=2, frames=8, priority=4)
    assert (await scenario.lease_one()).run.virtual_time == 2.0
    video = await stores.videos.get(low.video_id)
    await scenario.submit(video, priority=100)
    await scenario.submit(video, priority=8)
    await scenario.admit(max_running=2)
    assert (await scenario.lease_one()).run.virtual_time == 2.0 + 8 / 100


async def test_a_newcomer_joins_those_at_work_and_does_not_catch_up(scenario: Scenario, stores: Stores) -> None:
    old = await scenario.start(segments=30, frames=10, priority=10, content="a")
    for _ in range(5):
        await scenario.lease_one()
    new = await scenario.start(segments=30, frames=10, priority=10, content="b")
    assert (await stores.runs.get(new.run_id)).virtual_time == (await stores.runs.get(old.run_id)).virtual_time == 5
    leased = [(await scenario.lease_one()).run.id for _ in range(10)]
    assert leased.count(new.run_id) == leased.count(old.run_id) == 5


async def test_a_run_without_free_segments_leaves_its_turn_to_the_others(scenario: Scenario) -> None:
    short = await scenario.start(segments=1, content="a")
    long = await scenario.start(segments=3, content="b")
    leased = [(await scenario.lease_one()).run.id for _ in range(4)]
    assert sorted(leased) == sorted([short.run_id, *[long.run_id] * 3])


async def test_an_expired_lease_counts_as_open_and_as_a_strike(scenario: Scenario, stores: Stores) -> None:
    await scenario.start(segments=1)
    first = await scenario.lease_one()
    scenario.later(59.9)
    assert await scenario.lease() is None
    scenario.later(0.1)
    second = await scenario.lease_one()
    assert (second.lease.attempt, second.strikes, second.strike_reason) == (2, 1, "worker_lost")
    with pytest.raises(LeaseLostError):
        await stores.runs.renew(first.lease, until=scenario.now + LEASE)
    await stores.runs.hand_back(first.lease, strike="decoder_crashed")
    assert await scenario.lease() is None


async def test_segments_of_workers_that_are_gone_come_before_those_that_nobody_had(scenario: Scenario) -> None:
    await scenario.start(segments=6)
    ended, lost = await scenario.lease_one(), await scenario.lease_one()
    assert (ended.plan.number, lost.plan.number) == (0, 1)
    await scenario.commit(ended)
    scenario.later(LEASE.total_seconds())
    assert [(await scenario.lease_one()).plan.number for _ in range(2)] == [1, 2]
    scenario.later(LEASE.total_seconds() - 1)
    third = await scenario.lease_one()
    assert third.plan.number == 3
    scenario.later(1)
    # The one after it is free, and its decoder stands there.
    assert (await scenario.lease_one(after=third)).plan.number == 4
    assert [(await scenario.lease_one()).plan.number for _ in range(3)] == [1, 2, 5]


async def test_a_renewed_lease_lasts_longer(scenario: Scenario, stores: Stores) -> None:
    await scenario.start(segments=1)
    leased = await scenario.lease_one()
    scenario.later(59)
    await stores.runs.renew(leased.lease, until=scenario.now + LEASE)
    scenario.later(59)
    assert await scenario.lease() is None


async def test_a_lease_that_expired_may_be_renewed_until_somebody_takes_it(scenario: Scenario, stores: Stores) -> None:
    await scenario.start(segments=1)
    leased = await scenario.lease_one()
    scenario.later(100)
    await stores.runs.renew(leased.lease, until=scenario.now + LEASE)
    assert await scenario.lease() is None


async def test_what_is_handed_back_is_open_at_once(scenario: Scenario, stores: Stores) -> None:
    await scenario.start(segments=1)
    attempts = []
    for strike in (None, "decoder_crashed", "decoder_stalled", None):
        leased = await scenario.lease_one()
        attempts.append((leased.lease.attempt, leased.strikes, leased.strike_reason))
        await stores.runs.hand_back(leased.lease, strike=strike)
        with pytest.raises(LeaseLostError):
            await stores.runs.renew(leased.lease, until=scenario.now + LEASE)
        # Twice changes nothing.
        await stores.runs.hand_back(leased.lease, strike="decoder_failed")
    assert attempts == [(1, 0, None), (2, 0, None), (3, 1, "decoder_crashed"), (4, 2, "decoder_stalled")]
    last = await scenario.lease_one()
    assert (last.strikes, last.strike_reason) == (2, "decoder_stalled")


async def test_handing_back_a_committed_segment_changes_nothing(scenario: Scenario, stores: Stores) -> None:
    await scenario.start(segments=1)
    leased = await scenario.lease_one()
    await scenario.commit(leased)
    await stores.runs.hand_back(leased.lease)
    assert await scenario.lease() is None


async def test_a_restart_frees_every_lease_with_the_strike_of_a_lost_worker(scenario: Scenario, stores: Stores) -> None:
    await scenario.start(segments=3)
    await scenario.commit(await scenario.lease_one())
    lost = await scenario.lease_one()
    assert await stores.runs.free_leases() == 1
    assert await stores.runs.free_leases() == 0
    with pytest.raises(LeaseLostError):
        await scenario.commit(lost)
    again = await scenario.lease_one()
    assert (again.plan, again.strikes, again.strike_reason) == (lost.plan, 1, "worker_lost")


async def test_a_run_is_finalized_once_all_its_segments_are_done(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=2)
    await scenario.commit(await scenario.lease_one())
    assert await stores.runs.to_finalize() == []
    await scenario.commit(await scenario.lease_one())
    for _ in range(2):
        assert [(run.id, run.state) for run in await stores.runs.to_finalize()] == [(job.run_id, RunState.FINALIZING)]
    scenario.later(5)
    ended = await stores.runs.succeed(job.run_id, now=scenario.now)
    assert [(each.id, each.state, each.finished_at) for each in ended] == [(job.id, JobState.SUCCEEDED, scenario.now)]
    run = await stores.runs.get(job.run_id)
    assert (run.state, run.finished_at) == (RunState.SUCCEEDED, scenario.now)
    assert await stores.runs.to_finalize() == []


async def test_success_reaches_every_live_job_and_no_other(scenario: Scenario, stores: Stores) -> None:
    running = await scenario.start(segments=1)
    video = await stores.videos.get(running.video_id)
    cancelling, cancelled, queued = [await scenario.submit(video, priority=p) for p in (40, 30, 20)]
    await scenario.admit(max_running=2)
    for job in (cancelling, cancelled):
        await stores.jobs.cancel(job.id, now=scenario.now)
    ended = await scenario.finish(running)
    assert {job.id for job in ended} == {running.id, cancelling.id, queued.id}
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert (await stores.jobs.get(cancelled.id)).state is JobState.CANCELLED


async def test_succeeding_twice_changes_nothing(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=1)
    await scenario.finish(job)
    last_id = await stores.events.last_id()
    assert list(await stores.runs.succeed(job.run_id, now=scenario.later(1))) == []
    assert await stores.events.last_id() == last_id


async def test_a_run_with_open_segments_cannot_succeed(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    with pytest.raises(TransitionError):
        await stores.runs.succeed(job.run_id, now=scenario.now)
    assert (await stores.jobs.get(job.id)).state is JobState.RUNNING


async def test_a_failed_run_fails_its_live_jobs_and_keeps_its_candidates(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=3)
    cancelling = await scenario.submit(await stores.videos.get(job.video_id))
    await scenario.admit()
    await stores.jobs.cancel(cancelling.id, now=scenario.now)
    await scenario.commit(await scenario.lease_one())
    open_one = await scenario.lease_one()
    ended = await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    assert {(each.id, each.state, each.failure) for each in ended} == {
        (job.id, JobState.FAILED, FAILURE),
        (cancelling.id, JobState.CANCELLED, None),
    }
    run = await stores.runs.get(job.run_id)
    assert (run.state, run.failure, run.finished_at) == (RunState.FAILED, FAILURE, scenario.now)
    with pytest.raises(LeaseLostError):
        await scenario.commit(open_one)
    assert await scenario.lease() is None
    assert len(await scenario.read_parts(job.run_id)) > 0
    assert list(await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)) == []


async def test_a_run_that_has_not_begun_may_fail(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.submit(await scenario.add_video())
    [failed] = await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    assert (failed.state, failed.started_at, failed.failure) == (JobState.FAILED, None, FAILURE)
    events = await stores.events.after(failed, last_id=0, limit=9)
    assert [event.kind for event in events] == [EventKind.STATE, EventKind.STATE, EventKind.DONE]


async def test_a_run_that_succeeded_cannot_fail(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=1)
    await scenario.finish(job)
    with pytest.raises(TransitionError):
        await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)


async def test_a_run_whose_results_were_lost_is_not_found_again(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=1)
    await scenario.finish(job)
    await stores.runs.lose_results(job.run_id, FAILURE)
    assert (await stores.jobs.get(job.id)).state is JobState.SUCCEEDED
    again = await scenario.submit(await stores.videos.get(job.video_id))
    assert again.run_id != job.run_id
    assert again.state is JobState.QUEUED


async def test_runs_to_avoid_are_left_aside(scenario: Scenario, stores: Stores) -> None:
    first, second = await scenario.start(segments=2), await scenario.start(segments=2, content="b")
    until = scenario.now + LEASE
    leased = await stores.runs.lease_next(after=None, avoid={first.run_id}, now=scenario.now, until=until)
    assert leased is not None
    assert leased.run.id == second.run_id
    both = {first.run_id, second.run_id}
    assert await stores.runs.lease_next(after=None, avoid=both, now=scenario.now, until=until) is None


async def test_a_segment_handed_back_costs_its_run_nothing(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=2)
    before = (await stores.runs.get(job.run_id)).virtual_time
    leased = await scenario.lease_one()
    assert (await stores.runs.get(job.run_id)).virtual_time > before
    assert await stores.runs.hand_back(leased.lease)
    assert (await stores.runs.get(job.run_id)).virtual_time == pytest.approx(before)
    assert not await stores.runs.hand_back(leased.lease)


async def test_a_removed_run_is_nobodys_to_commit(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    leased = await scenario.lease_one()
    await stores.jobs.remove(job.id)
    with pytest.raises(LeaseLostError):
        await scenario.commit(leased)
    with pytest.raises(LeaseLostError):
        await stores.runs.renew(leased.lease, until=scenario.now + LEASE)
    await stores.runs.hand_back(leased.lease)


async def test_the_index_report_reaches_the_planner(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.submit(await scenario.add_video())
    await scenario.admit()
    [run] = await stores.runs.to_plan()
    assert run.id == job.run_id
    assert (await stores.videos.get(run.video_id)).report == REPORT
