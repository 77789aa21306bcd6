"""What follows when a segment cannot be worked on: it is tried again, waited for, given up, or its run ends."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from orchestrator.core.planning import FIRST_SEGMENT_FRAMES
from orchestrator.core.records import Lease
from orchestrator.core.states import JobState
from orchestrator.core.types import FrameBatch, ServedModel
from orchestrator.errors import (
    DecoderCrashedError,
    DecoderError,
    DecoderStalledError,
    DecoderUnavailableError,
    InferenceError,
    StorageError,
    TritonUnavailableError,
    VideoUnreadableError,
)
from orchestrator.testing.fake_model import FakeModel, served_model
from orchestrator.testing.fake_reader import GeneratedVideo
from orchestrator.testing.memory_runs import MemoryRunStore
from orchestrator.testing.memory_stores import memory_stores
from tests.support.process import SEGMENT_FRAMES, Process


@pytest.mark.parametrize("error", [DecoderCrashedError("signal 11"), DecoderStalledError("no batch for 300 s")])
async def test_a_segment_that_kills_its_decoder_3_times_fails_its_frames_with_the_reason(error: DecoderError) -> None:
    process = Process(video=GeneratedVideo(frame_count=8, segment_error=error))
    job = (await process.submit()).job
    await process.plan()
    for _ in range(3):
        assert await process.worker.work_once()
    assert (await process.jobs.snapshot(job.id)).run.segments_done == 0
    await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert ended.run.ledger.reasons == {error.code: 8}
    assert ended.job.state is JobState.FAILED


async def test_a_job_goes_on_without_the_one_segment_that_no_decoder_survives() -> None:
    error = DecoderCrashedError("signal 11")
    process = Process(video=GeneratedVideo(segment_error=error, deadly_segment=1))
    job = (await process.submit()).job
    with capture_logs(processors=[merge_contextvars]) as logs:
        await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert ended.job.state is JobState.SUCCEEDED
    assert ended.run.ledger.reasons == {error.code: SEGMENT_FRAMES}
    assert ended.run.ledger.inferred == 100 - SEGMENT_FRAMES
    assert "frames_failed" in ended.run.warnings
    [given_up] = [entry for entry in logs if entry["event"] == "segment given up"]
    assert (given_up["segment"], given_up["job_ids"]) == (1, [job.id])


async def test_a_segment_that_loses_its_worker_3_times_fails_its_frames_as_such_and_the_job_goes_on() -> None:
    process = Process(video=GeneratedVideo(frame_count=8))
    job = (await process.submit()).job
    await process.plan()
    runs, now = process.stores.runs, process.clock.utc_now()
    for _ in range(3):
        # Taken by somebody of whom nothing is heard again.
        until = now + timedelta(seconds=60)
        assert await runs.lease_next(after=None, avoid=(), now=now, until=until) is not None
        now = until
    process.clock.seconds = 180.0
    await process.worker.work_once()
    await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert ended.job.state is JobState.SUCCEEDED
    assert ended.run.ledger.reasons == {"worker_lost": FIRST_SEGMENT_FRAMES}
    assert ended.run.ledger.inferred == 8 - FIRST_SEGMENT_FRAMES


async def test_a_video_error_while_decoding_ends_the_job_with_its_own_code() -> None:
    process = Process(video=GeneratedVideo(segment_error=VideoUnreadableError("torn")))
    job = (await process.submit()).job
    await process.work_until_idle()
    failure = (await process.jobs.snapshot(job.id)).job.failure
    assert failure is not None
    assert failure.code == "video_unreadable"


async def test_triton_being_away_costs_time_and_nothing_else() -> None:
    process = Process()
    process.model.failures = deque([TritonUnavailableError("away"), TritonUnavailableError("away")])
    job = (await process.submit()).job
    await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert ended.job.state is JobState.SUCCEEDED
    assert ended.run.ledger.inferred == 100
    assert process.slots.out == frozenset()


async def test_a_job_tells_what_it_waits_for_until_it_goes_on() -> None:
    process = Process(retry_pause_s=5.0)
    process.model.failures = deque([TritonUnavailableError("away")])
    job = (await process.submit()).job
    await process.work_until_idle()
    waiting = await process.jobs.snapshot(job.id)
    assert waiting.waiting_for is not None
    assert waiting.waiting_for.code == "triton_unavailable"
    process.clock.seconds = 5.0
    await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert (ended.job.state, ended.waiting_for) == (JobState.SUCCEEDED, None)


async def test_a_run_that_waited_too_long_fails_with_what_it_waited_for_and_a_retry_goes_on() -> None:
    process = Process(wait_budget_s=100.0)
    job = (await process.submit()).job
    await process.plan()
    await process.worker.work_once()
    process.catalogue.set_ready("shapes", 1, reason_against="it is loading")
    for second in range(101):
        process.clock.seconds = second
        assert (await process.jobs.snapshot(job.id)).job.state is JobState.RUNNING
        await process.worker.work_once()
    failed = await process.jobs.snapshot(job.id)
    assert failed.job.failure is not None
    assert failed.job.failure.code == "model_not_ready"
    assert "waited 100 s" in failed.job.failure.message
    assert "it is loading" in failed.job.failure.message
    assert failed.waiting_for is None
    assert failed.run.ledger.inferred == FIRST_SEGMENT_FRAMES
    process.catalogue.set_ready("shapes", 1, reason_against=None)
    await process.jobs.retry(job.id)
    await process.work_until_idle()
    assert (await process.jobs.snapshot(job.id)).job.state is JobState.SUCCEEDED
    assert len(process.model.frames_inferred) == 100


async def test_time_in_which_the_server_was_down_fails_nobody() -> None:
    process = Process(wait_budget_s=100.0)
    job = (await process.submit()).job
    await process.plan()
    process.catalogue.set_ready("shapes", 1, reason_against="it is loading")
    for seconds in (0.0, 99.0, 5000.0, 5099.0):
        process.clock.seconds = seconds
        await process.worker.work_once()
        assert (await process.jobs.snapshot(job.id)).job.state is JobState.RUNNING


async def test_only_a_running_job_waits_for_triton() -> None:
    process = Process(retry_pause_s=5.0, max_running_jobs=1)
    process.model.failures = deque([TritonUnavailableError("away")])
    video_id = await process.upload()
    running, queued = [(await process.submit(video_id, priority=priority)).job for priority in (50, 40)]
    await process.plan()
    await process.worker.work_once()
    waiting = [(await process.jobs.snapshot(job.id)).waiting_for for job in (running, queued)]
    assert [each is None for each in waiting] == [False, True]


async def test_a_decoder_that_cannot_start_is_nobodys_fault() -> None:
    process = Process(video=GeneratedVideo(frame_count=8, segment_error=DecoderUnavailableError("no processes left")))
    job = (await process.submit()).job
    await process.plan()
    for _ in range(10):
        await process.worker.work_once()
    snapshot = await process.jobs.snapshot(job.id)
    assert snapshot.job.state is JobState.RUNNING
    assert snapshot.waiting_for is not None
    assert snapshot.waiting_for.code == "decoder_unavailable"


async def test_a_refused_request_fails_the_job_with_tritons_reason() -> None:
    process = Process()
    process.model.failures = deque([InferenceError("shapes:1: out of memory")])
    job = (await process.submit()).job
    await process.work_until_idle()
    failure = (await process.jobs.snapshot(job.id)).job.failure
    assert failure is not None
    assert (failure.code, failure.message) == ("inference_failed", "shapes:1: out of memory")


async def test_a_changed_network_is_never_mixed_into_a_run() -> None:
    process = Process()
    job = (await process.submit()).job
    await process.plan()
    await process.worker.work_once()
    process.worker.catalogue = type(process.catalogue)([served_model(digest="f" * 64)])
    await process.work_until_idle()
    failure = (await process.jobs.snapshot(job.id)).job.failure
    assert failure is not None
    assert failure.code == "model_changed"


async def test_the_decoders_of_a_run_go_once_a_look_for_work_finds_that_nobody_wants_it_any_more() -> None:
    process = Process(video=GeneratedVideo(frame_count=8))
    job = (await process.submit()).job
    await process.plan()
    while await process.worker.work_once():
        pass
    # Another process may still hand it a segment: not all is committed for good before the run is finalized.
    assert process.reader.runs_closed == []
    # As if somebody else had finalized it.
    await process.stores.runs.to_finalize()
    await process.stores.runs.succeed(job.run_id, now=process.clock.utc_now())
    assert not await process.worker.work_once()
    assert process.reader.runs_closed == [job.run_id]
    await process.worker.work_once()
    assert process.reader.runs_closed == [job.run_id]


@dataclass(slots=True)
class InterruptedModel(FakeModel):
    """interruptions: called one by one, before an answer each."""

    interruptions: deque[Callable[[], Awaitable[object]]] = field(default_factory=deque)

    async def infer(self, model: ServedModel, batch: FrameBatch) -> NDArray[np.float32]:
        if self.interruptions:
            await self.interruptions.popleft()()
        return await FakeModel.infer(self, model, batch)


async def test_the_decoder_of_a_job_that_is_deleted_at_work_goes_with_the_segment() -> None:
    model = InterruptedModel()
    process = Process(model=model)
    job = (await process.submit()).job
    await process.plan()
    model.interruptions.append(lambda: process.jobs.remove(job.id))
    assert await process.worker.work_once()
    # Once with the job, which cannot reach the one at work, and once more when that one's commit found no run.
    assert process.reader.runs_closed == [job.run_id, job.run_id]


async def test_a_lack_of_descriptors_in_the_middle_of_a_segment_delays_it() -> None:
    async def lack() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    process = Process(model=InterruptedModel(interruptions=deque([lack, lack])))
    job = (await process.submit()).job
    await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert (ended.job.state, ended.run.ledger.inferred) == (JobState.SUCCEEDED, 100)
    assert process.slots.out == frozenset()


async def test_another_error_of_the_system_is_a_defect() -> None:
    async def break_down() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    process = Process(model=InterruptedModel(interruptions=deque([break_down])))
    job = (await process.submit()).job
    # Rendering the traceback of a whole process takes seconds.
    with capture_logs() as logs:
        await process.work_until_idle()
    assert "segment failed unexpectedly" in [entry["event"] for entry in logs]
    failure = (await process.jobs.snapshot(job.id)).job.failure
    assert failure is not None
    assert failure.code == "internal_error"


@dataclass(frozen=True, slots=True)
class RunsOfAnAwayDatabase(MemoryRunStore):
    """Takes segments, and cannot take them back until it `is_back`."""

    is_back: asyncio.Event = field(default_factory=asyncio.Event)

    async def hand_back(self, lease: Lease, *, strike: str | None = None) -> bool:
        if not self.is_back.is_set():
            raise StorageError("the database is away")
        return await MemoryRunStore.hand_back(self, lease, strike=strike)


async def test_a_segment_that_the_database_was_not_there_to_take_back_is_handed_back_without_a_strike() -> None:
    stores = memory_stores()
    runs = RunsOfAnAwayDatabase(stores.runs.world)
    process = Process(stores=replace(stores, runs=runs))
    process.model.failures = deque([TritonUnavailableError("away")] * 2)
    job = (await process.submit()).job
    await process.plan()
    for _ in range(2):
        with pytest.raises(StorageError):
            await process.worker.work_once()
    runs.is_back.set()
    # Whoever comes later than the lease lasts would give it a strike, and give its frames up after three of them.
    await process.work_until_idle()
    assert process.worker.owed == []
    ended = await process.jobs.snapshot(job.id)
    assert (ended.job.state, ended.run.ledger.inferred) == (JobState.SUCCEEDED, 100)
    assert {segment.strikes for segment in runs.world.segments[job.run_id]} == {0}


async def test_a_stop_is_not_held_up_by_a_database_that_is_away() -> None:
    is_inferring = asyncio.Event()

    async def wait_for_ever() -> None:
        is_inferring.set()
        await asyncio.Event().wait()

    stores = memory_stores()
    stores = replace(stores, runs=RunsOfAnAwayDatabase(stores.runs.world))
    process = Process(model=InterruptedModel(interruptions=deque([wait_for_ever])), stores=stores)
    await process.submit()
    await process.plan()
    working = asyncio.create_task(process.worker.work_once())
    await is_inferring.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
