"""Every `PartStore`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.types import Candidates, Ledger, StageSeconds
from orchestrator.errors import LeaseLostError, PartsMovedError
from orchestrator.ports import Stores
from tests.contract.scenario import LEASE, Scenario, assert_equal, plans_of, result_of


def expected(segments: range, *, frames: int = 4) -> Candidates:
    plans = plans_of(segments.stop, frames)
    return Candidates.concatenate([result_of(plans[number]).candidates for number in segments])


async def test_a_commit_counts_in_the_run(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=3, frames=4)
    await scenario.commit(await scenario.lease_one())
    run = await scenario.commit(await scenario.lease_one(), failing=1)
    assert run == await stores.runs.get(job.run_id)
    assert (run.segments_done, run.frames_total) == (2, 12)
    assert run.ledger == Ledger(planned=12, inferred=7, failed=1, skipped=7, reasons={"frame_corrupt": 1})
    assert replace(run.seconds, writing=0.0) == StageSeconds(decoding=1.0, waiting=0.5, inferring=4.0)
    # A store adds what its own writing took.
    assert run.seconds.writing >= 0.25
    assert run.warnings == ("input_ends_early", "frames_failed", "decode_errors")


async def test_candidates_come_back_bit_by_bit_and_in_frame_order(scenario: Scenario) -> None:
    job = await scenario.start(segments=20, frames=4)
    await scenario.work_to_the_end()
    assert_equal(await scenario.read_parts(job.run_id), expected(range(20)))


async def test_reading_stops_before_the_first_segment_that_is_not_committed(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=4, frames=4)
    first, second, third = [await scenario.lease_one() for _ in range(3)]
    assert await stores.parts.complete_through(job.run_id) is None
    await scenario.commit(third)
    assert len(await scenario.read_parts(job.run_id)) == 0
    assert await stores.parts.complete_through(job.run_id) is None
    await scenario.commit(first)
    assert_equal(await scenario.read_parts(job.run_id), expected(range(1)))
    assert await stores.parts.complete_through(job.run_id) == 6
    await scenario.commit(second)
    assert_equal(await scenario.read_parts(job.run_id), expected(range(3)))
    assert await stores.parts.complete_through(job.run_id) == 22
    await scenario.work_to_the_end()
    assert await stores.parts.complete_through(job.run_id) == 30


@pytest.mark.parametrize(("first", "last"), [(0, None), (5, 5), (6, 6), (7, 40), (8, None), (79, 400), (500, None)])
async def test_a_range_of_frames_is_read_and_nothing_else(scenario: Scenario, first: int, last: int | None) -> None:
    job = await scenario.start(segments=12, frames=4)
    await scenario.work_to_the_end()
    everything = expected(range(12))
    is_inside = everything.frame_index >= first
    if last is not None:
        is_inside &= everything.frame_index <= last
    assert_equal(await scenario.read_parts(job.run_id, first, last), everything.take(is_inside))


async def test_a_run_without_segments_has_nothing_to_read(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.submit(await scenario.add_video())
    assert len(await scenario.read_parts(job.run_id)) == 0
    assert await stores.parts.complete_through(job.run_id) is None
    assert await stores.parts.failed_frames(job.run_id) == {}


async def test_failed_frames_are_told_with_their_reasons_also_of_finished_runs(
    scenario: Scenario, stores: Stores
) -> None:
    job = await scenario.start(segments=3, frames=4)
    await scenario.commit(await scenario.lease_one())
    await scenario.commit(await scenario.lease_one(), failing=2)
    failed = {12: "frame_corrupt", 14: "frame_corrupt"}
    assert await stores.parts.failed_frames(job.run_id) == failed
    # A failed frame is one whose fate is known.
    assert await stores.parts.complete_through(job.run_id) == 14
    await scenario.finish(job)
    assert await stores.parts.failed_frames(job.run_id) == failed


async def test_a_segment_may_fail_whole(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=1, frames=4)
    run = await scenario.commit(await scenario.lease_one(), failing=4)
    assert run.ledger == Ledger(planned=4, failed=4, skipped=7, reasons={"frame_corrupt": 4})
    assert await stores.parts.complete_through(job.run_id) == 6


async def test_committing_twice_leaves_one_copy(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=2)
    leased = await scenario.lease_one()
    once = await scenario.commit(leased)
    last_id = await stores.events.last_id()
    assert await scenario.commit(leased) == once
    assert await stores.events.last_id() == last_id
    assert_equal(await scenario.read_parts(job.run_id), expected(range(1)))


async def test_an_attempt_that_lost_its_lease_writes_nothing(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=1)
    slow = await scenario.lease_one()
    scenario.later(LEASE.total_seconds())
    quick = await scenario.lease_one()
    before = await stores.runs.get(job.run_id), await stores.events.last_id()
    with pytest.raises(LeaseLostError):
        await scenario.commit(slow, failing=1)
    assert (await stores.runs.get(job.run_id), await stores.events.last_id()) == before
    await scenario.commit(quick)
    with pytest.raises(LeaseLostError):
        await scenario.commit(slow, failing=1)
    assert (await stores.runs.get(job.run_id)).ledger.failed == 0
    assert_equal(await scenario.read_parts(job.run_id), expected(range(1)))


async def test_an_expired_lease_that_nobody_took_still_commits(scenario: Scenario) -> None:
    job = await scenario.start(segments=1)
    leased = await scenario.lease_one()
    scenario.later(1000)
    await scenario.commit(leased)
    assert_equal(await scenario.read_parts(job.run_id), expected(range(1)))


async def test_a_reader_that_is_overtaken_by_finalizing_is_told(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=30)
    await scenario.work_to_the_end()
    await stores.runs.to_finalize()
    parts = stores.parts.read(job.run_id, first_frame=0, last_frame=None)
    await anext(aiter(parts))
    await stores.runs.succeed(job.run_id, now=scenario.now)
    with pytest.raises(PartsMovedError):
        _ = [part async for part in parts]
