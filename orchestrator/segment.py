"""The straight line of the product: a leased segment's frames through the model into stored candidates.

    decoder child --> slot --> Triton --> candidates --> one commit

The same function runs in the API process, in a worker and in a benchmark; only the ports differ.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from orchestrator.core.candidates import to_candidates
from orchestrator.core.ledger import checked_result
from orchestrator.core.records import LeasedSegment, Run, SegmentReport, SegmentResult
from orchestrator.core.types import Candidates, FrameBatch, FrameStamp, ServedModel, StageSeconds
from orchestrator.core.window import FrameWindow
from orchestrator.errors import RunUnwantedError
from orchestrator.ports import (
    BatchReader,
    Model,
    PartStore,
    RunStore,
    SegmentBatches,
    SegmentRequest,
    Slots,
    VideoReader,
)
from orchestrator.telemetry import Metrics

Infer = Callable[[FrameBatch], Coroutine[None, None, Candidates]]
Keep = Callable[[FrameBatch, Candidates], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTools:
    """The ports that running a segment needs. window: bounds the frames that wait for Triton, over all segments.

    lease_s: how long a lease lasts after each renewal. poll_s: how often a run is asked whether it is
    still wanted. utc_now: aware. monotonic_s: a clock for durations.
    """

    reader: VideoReader
    model: Model
    slots: Slots
    parts: PartStore
    runs: RunStore
    window: FrameWindow
    metrics: Metrics
    lease_s: float
    poll_s: float
    utc_now: Callable[[], datetime]
    monotonic_s: Callable[[], float]


@dataclass(slots=True)
class _Kept:
    """What a segment has gathered so far, in frame order."""

    candidates: list[Candidates] = field(default_factory=list)
    stamps: list[FrameStamp] = field(default_factory=list)
    seconds: StageSeconds = field(default_factory=StageSeconds)

    def result(self, report: SegmentReport) -> SegmentResult:
        return SegmentResult(
            candidates=Candidates.concatenate(self.candidates),
            stamps=tuple(self.stamps),
            report=report,
            seconds=self.seconds + StageSeconds(decoding=report.decoding_s),
        )


async def close_unwanted(run_id: str, runs: RunStore, reader: VideoReader) -> bool:
    """End the decoders that wait for more segments of a run that nobody wants; whether it is so.

    One at work ends by itself: whoever holds its lease finds that the run is not wanted.
    """
    if await runs.is_wanted(run_id):
        return False
    await reader.close_run(run_id)
    return True


async def run_segment(
    leased: LeasedSegment,
    request: SegmentRequest,
    model: ServedModel,
    tools: SegmentTools,
    *,
    on_inferred: Callable[[int], Awaitable[None]],
) -> Run:
    """Decode, infer and commit one leased segment, whole or not at all; the run as it is afterwards.

    on_inferred: told the number of frames of each batch. Failures leave as one ExceptionGroup: DecoderError,
    VideoError, InferenceError, StorageError, LeaseLostError, or RunUnwantedError when nobody wants the run any more.
    """
    kept = _Kept()
    held_slots: set[int] = set()

    async def infer(batch: FrameBatch) -> Candidates:
        candidates, seconds = await _infer(batch, model, tools)
        held_slots.discard(batch.slot)
        tools.slots.give_back(batch.slot)
        kept.seconds += seconds
        return candidates

    async def keep(batch: FrameBatch, candidates: Candidates) -> None:
        kept.candidates.append(candidates)
        kept.stamps.extend(batch.stamps)
        await on_inferred(len(batch.stamps))

    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_hold_lease(leased, tools))
            async with tools.reader.open_segment(request) as batches:
                in_flight = max(2, tools.window.capacity // request.batch_frames + 1)
                await infer_in_order(_Held(batches, held_slots), infer, keep, max_in_flight=in_flight)
                result = checked_result(kept.result(batches.report()), leased.plan)
            watch.cancel()
    finally:
        # A request that was cancelled, even before its first step, has not given its slot back.
        for slot in held_slots:
            tools.slots.give_back(slot)
    started_s = tools.monotonic_s()
    run = await commit_segment(leased, result, tools)
    _measure_stages(result, tools.metrics, writing_s=tools.monotonic_s() - started_s)
    return run


async def commit_segment(leased: LeasedSegment, result: SegmentResult, tools: SegmentTools) -> Run:
    """Keep what became of a segment, and count it once it is kept; the run as it is then.

    Raises as `PartStore.commit`.
    """
    run = await tools.parts.commit(leased.lease, result, now=tools.utc_now())
    tools.metrics.segments_committed.inc()
    for _, reason in result.report.failed:
        tools.metrics.frames_failed.labels(reason).inc()
    return run


@dataclass(frozen=True, slots=True)
class _Held:
    """Passes batches on and notes their slots, so that whoever fails later knows what to give back."""

    batches: SegmentBatches
    slots: set[int]

    async def next(self) -> FrameBatch | None:
        batch = await self.batches.next()
        if batch is not None:
            self.slots.add(batch.slot)
        return batch


async def infer_in_order(batches: BatchReader, infer: Infer, keep: Keep, *, max_in_flight: int) -> None:
    """Infer batches concurrently, keep their candidates in order. Failures leave as one ExceptionGroup."""
    open_requests: deque[tuple[FrameBatch, asyncio.Task[Candidates]]] = deque()

    async def keep_oldest() -> None:
        batch, request = open_requests.popleft()
        await keep(batch, await request)

    async with asyncio.TaskGroup() as group:
        while (batch := await batches.next()) is not None:
            open_requests.append((batch, group.create_task(infer(batch))))
            while open_requests and (len(open_requests) >= max_in_flight or open_requests[0][1].done()):
                await keep_oldest()
        while open_requests:
            await keep_oldest()


async def _infer(batch: FrameBatch, model: ServedModel, tools: SegmentTools) -> tuple[Candidates, StageSeconds]:
    """Infer one batch within the window."""
    asked_s = tools.monotonic_s()
    async with tools.window.hold(len(batch.stamps)):
        sent_s = tools.monotonic_s()
        answer = await tools.model.infer(model, batch)
    seconds = StageSeconds(waiting=sent_s - asked_s, inferring=tools.monotonic_s() - sent_s)
    return to_candidates(answer, batch), seconds


async def _hold_lease(leased: LeasedSegment, tools: SegmentTools) -> None:
    """Renew the lease while the segment is worked on. Raises RunUnwantedError, LeaseLostError.

    A decoder that hangs does not keep its lease this way: its own stall time-out ends the attempt.
    """
    renewed_s = tools.monotonic_s()
    # The truth is a row that any process may change: there is no event to wait for.
    while await tools.runs.is_wanted(leased.run.id):
        if tools.monotonic_s() - renewed_s > tools.lease_s / 3:
            renewed_s = tools.monotonic_s()
            await tools.runs.renew(leased.lease, until=tools.utc_now() + timedelta(seconds=tools.lease_s))
        await asyncio.sleep(tools.poll_s)
    raise RunUnwantedError(f"no job wants run {leased.run.id} any more")


def _measure_stages(result: SegmentResult, metrics: Metrics, *, writing_s: float) -> None:
    metrics.stage_seconds.labels("decoding").observe(result.seconds.decoding)
    metrics.stage_seconds.labels("waiting").observe(result.seconds.waiting)
    metrics.stage_seconds.labels("inferring").observe(result.seconds.inferring)
    metrics.stage_seconds.labels("writing").observe(writing_s)
