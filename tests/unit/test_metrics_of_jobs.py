"""What /metrics tells of jobs, of lost frames and of the stages, in numbers; on in-memory parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from httpx import AsyncClient

from orchestrator.core.records import SegmentReport
from orchestrator.core.states import JobState
from orchestrator.core.types import FrameBatch
from orchestrator.errors import DecoderCrashedError, VideoUnreadableError
from orchestrator.ports import SegmentRequest
from orchestrator.telemetry import STAGES
from orchestrator.testing.fake_reader import FakeVideoReader, GeneratedBatches, GeneratedVideo
from tests.support.api import api_over, submitted
from tests.support.process import Clock
from tests.support.web_process import WebProcess

DECODING_S: Final = 2.0


async def values_in(client: AsyncClient) -> dict[str, float]:
    """By series, as Prometheus reads them."""
    lines = (await client.get("/metrics")).text.splitlines()
    told = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {series: float(value) for series, value in told}


async def jobs_in(client: AsyncClient) -> dict[str, float]:
    """How many jobs are told in which states, and in the queue."""
    values = await values_in(client)
    by_state = {state.value: values[f'trireel_jobs{{state="{state.value}"}}'] for state in JobState}
    return {
        "in the queue": values["trireel_queued_jobs"],
        **{state: count for state, count in by_state.items() if count},
    }


async def test_jobs_are_told_by_their_state_and_those_that_wait_as_the_queue() -> None:
    process = WebProcess(max_running_jobs=1)
    async with api_over(process) as client:
        # Each of them a run of its own.
        job_ids = [await submitted(client, every_nth=number) for number in (1, 2, 3, 4)]
        assert await jobs_in(client) == {"in the queue": 4, "queued": 4}
        await process.plan()
        assert await jobs_in(client) == {"in the queue": 3, "queued": 3, "running": 1}
        await client.post(f"/v1/jobs/{job_ids[-1]}/cancel")
        assert await jobs_in(client) == {"in the queue": 2, "queued": 2, "running": 1, "cancelled": 1}
        await process.work_until_idle()
        assert await jobs_in(client) == {"in the queue": 0, "succeeded": 3, "cancelled": 1}


async def test_a_job_that_fails_is_counted_once_under_its_code() -> None:
    process = WebProcess(video=GeneratedVideo(segment_error=VideoUnreadableError("torn")))
    async with api_over(process) as client:
        await submitted(client)
        await process.work_until_idle()
        values = await values_in(client)
    failures = {name: value for name, value in values.items() if name.startswith("trireel_job_failures_total")}
    assert failures == {'trireel_job_failures_total{reason="video_unreadable"}': 1}
    assert values['trireel_jobs_finished_total{state="failed"}'] == 1
    assert values['trireel_jobs{state="failed"}'] == 1


async def test_frames_that_give_no_picture_are_counted_under_their_reasons() -> None:
    failing = {3: "not_decodable", 4: "not_decodable", 50: "decoder_crashed"}
    process = WebProcess(video=GeneratedVideo(failing=failing))
    async with api_over(process) as client:
        await submitted(client)
        await process.work_until_idle()
        values = await values_in(client)
    failed = {name: value for name, value in values.items() if name.startswith("trireel_frames_failed_total")}
    assert failed == {
        'trireel_frames_failed_total{reason="not_decodable"}': 2,
        'trireel_frames_failed_total{reason="decoder_crashed"}': 1,
    }


async def test_frames_that_no_decoder_survives_are_counted_too_and_have_no_stages() -> None:
    process = WebProcess(video=GeneratedVideo(frame_count=8, segment_error=DecoderCrashedError("signal 11")))
    async with api_over(process) as client:
        await submitted(client)
        await process.work_until_idle()
        values = await values_in(client)
    assert values['trireel_frames_failed_total{reason="decoder_crashed"}'] == 8
    assert values["trireel_segments_committed_total"] == 2
    assert values['trireel_stage_seconds_count{stage="writing"}'] == 0


class TimedBatches(GeneratedBatches):
    """Batches whose decoding took `DECODING_S`."""

    def __init__(self, batches: GeneratedBatches) -> None:
        self._batches = batches

    async def next(self) -> FrameBatch | None:
        return await self._batches.next()

    def report(self) -> SegmentReport:
        return replace(self._batches.report(), decoding_s=DECODING_S)


class TimedReader(FakeVideoReader):
    @asynccontextmanager
    async def open_segment(self, request: SegmentRequest) -> AsyncIterator[GeneratedBatches]:
        async with super().open_segment(request) as batches:
            yield TimedBatches(batches)


async def test_every_stage_of_every_segment_is_timed() -> None:
    process = WebProcess(clock=Clock(ticks_a_read=0.01))
    process.worker.tools = replace(process.worker.tools, reader=TimedReader(process.video, process.slots))
    async with api_over(process) as client:
        job_id = await submitted(client)
        await process.work_until_idle()
        values = await values_in(client)
    segments = (await process.jobs.snapshot(job_id)).run.segments_done
    assert segments > 1
    assert values["trireel_segments_committed_total"] == segments
    seconds = {stage: values[f'trireel_stage_seconds_sum{{stage="{stage}"}}'] for stage in STAGES}
    counts = {stage: values[f'trireel_stage_seconds_count{{stage="{stage}"}}'] for stage in STAGES}
    assert counts == dict.fromkeys(STAGES, segments)
    assert min(seconds.values()) > 0
    assert seconds["decoding"] == DECODING_S * segments
