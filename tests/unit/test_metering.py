from __future__ import annotations

from dataclasses import replace

from orchestrator.core.progress import SHARE_LIFETIME_S
from orchestrator.core.records import Progress, Run
from orchestrator.core.states import RunState
from orchestrator.events.memory import MemoryEventBus
from orchestrator.metering import MOST_METERS, Meters
from orchestrator.sampled_runs import SampledRuns
from tests.support.process import Clock, Process


class Metered:
    """Two processes that can hear each other, and one planned run of 100 frames."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bus = MemoryEventBus(monotonic_s=self.clock.monotonic_s)
        self.process = Process()
        self.here, self.there = (
            Meters(bus=self.bus, worker_id=name, monotonic_s=self.clock.monotonic_s) for name in ("here", "there")
        )

    async def plan(self) -> Run:
        job = (await self.process.submit()).job
        await self.process.plan()
        return await self.process.stores.runs.get(job.run_id)

    async def begin(self, meters: Meters, run: Run) -> None:
        frames = await SampledRuns(files=self.process.stores.files).of(run)
        meters.begin(run, await self.process.stores.videos.get(run.video_id), frames)

    async def infer_a_second(self, meters: Meters, run: Run, *, segment: int, frames: int) -> None:
        """So many frames in one second, after one that began it."""
        await meters.inferred(run.id, segment, 1)
        self.clock.seconds += 1
        await meters.inferred(run.id, segment, frames)


def shown(meters: Meters, run: Run) -> Progress:
    return meters.snapshot(run, stage="inferring")


async def test_every_process_shows_the_sum_of_all() -> None:
    metered = Metered()
    run = await metered.plan()
    for meters, frames in ((metered.here, 10), (metered.there, 20)):
        await metered.begin(meters, run)
        await metered.infer_a_second(meters, run, segment=frames, frames=frames)
    for meters in (metered.here, metered.there):
        told = shown(meters, run)
        assert (told.frames_done, told.fps, told.eta_s) == (32, 30.0, 68 / 30)


async def test_a_process_that_dies_does_not_count_for_long() -> None:
    metered = Metered()
    run = await metered.plan()
    await metered.begin(metered.there, run)
    await metered.infer_a_second(metered.there, run, segment=1, frames=20)
    assert shown(metered.here, run).fps == 20
    metered.clock.seconds += SHARE_LIFETIME_S + 1
    told = shown(metered.here, run)
    assert (told.frames_done, told.fps, told.eta_s) == (0, None, None)


async def test_ones_own_open_frames_count_however_long_a_batch_takes() -> None:
    metered = Metered()
    run = await metered.plan()
    await metered.begin(metered.here, run)
    await metered.infer_a_second(metered.here, run, segment=1, frames=20)
    metered.clock.seconds += 10 * SHARE_LIFETIME_S
    assert shown(metered.here, run).frames_done == 21


async def test_ones_own_speed_is_forgotten_where_only_others_go_on() -> None:
    metered = Metered()
    run = await metered.plan()
    await metered.begin(metered.here, run)
    await metered.infer_a_second(metered.here, run, segment=1, frames=20)
    await metered.here.committed(replace(run, ledger=replace(run.ledger, inferred=21)), 1)
    assert shown(metered.here, run).fps == 20
    metered.clock.seconds += SHARE_LIFETIME_S
    await metered.begin(metered.there, run)
    await metered.infer_a_second(metered.there, run, segment=2, frames=5)
    assert shown(metered.here, run).fps == 5


async def test_a_segment_given_up_counts_nowhere_any_more() -> None:
    metered = Metered()
    run = await metered.plan()
    await metered.begin(metered.there, run)
    await metered.there.inferred(run.id, 1, 20)
    assert shown(metered.here, run).frames_done == 20
    await metered.there.gave_up(run.id, 1)
    assert shown(metered.here, run).frames_done == 0


async def test_a_row_that_knows_of_more_commits_than_anybody_told_is_believed() -> None:
    metered = Metered()
    run = await metered.plan()
    await metered.begin(metered.there, run)
    await metered.there.inferred(run.id, 1, 20)
    later = replace(run, ledger=replace(run.ledger, inferred=60))
    assert shown(metered.here, later).frames_done == 60
    await metered.begin(metered.there, later)
    await metered.there.inferred(run.id, 1, 1)
    assert shown(metered.here, run).frames_done == 81


async def test_a_run_that_is_over_is_shown_by_its_row() -> None:
    metered = Metered()
    run = await metered.plan()
    await metered.begin(metered.there, run)
    await metered.there.inferred(run.id, 1, 20)
    told = shown(metered.here, replace(run, state=RunState.FAILED))
    assert (told.frames_done, told.fps) == (0, None)


async def test_meters_of_runs_that_ended_elsewhere_are_forgotten_in_the_end() -> None:
    metered = Metered()
    run = await metered.plan()
    await metered.begin(metered.here, run)
    await metered.infer_a_second(metered.here, run, segment=1, frames=20)
    for number in range(MOST_METERS):
        await metered.begin(metered.here, replace(run, id=f"run_later_{number}"))
    assert shown(metered.here, run).fps == 20, "frames are open"
    await metered.here.gave_up(run.id, 1)
    await metered.begin(metered.here, replace(run, id="run_last"))
    assert shown(metered.here, run).fps is None
