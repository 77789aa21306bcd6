"""The flow of one segment: order, concurrency and ownership. The whole of it on real parts is in tests/integration."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from orchestrator.core.letterbox import fit_letterbox
from orchestrator.core.types import Candidates, FrameBatch, FrameStamp
from orchestrator.errors import DecoderCrashedError, TritonTimeoutError
from orchestrator.segment import infer_in_order

BOX = fit_letterbox(64, 64, imgsz=64, stride=32)


def batch_of(number: int) -> FrameBatch:
    return FrameBatch(number, np.zeros((1, 64, 64, 3), np.uint8), (FrameStamp(number, 40.0 * number),), BOX)


class ListedBatches:
    """A reader of a fixed number of batches; `fails_at` raises instead of that batch."""

    def __init__(self, count: int, *, fails_at: int | None = None) -> None:
        self._count = count
        self._fails_at = fails_at
        self.handed_out = 0

    async def next(self) -> FrameBatch | None:
        await asyncio.sleep(0)
        if self.handed_out == self._fails_at:
            raise DecoderCrashedError("gone")
        if self.handed_out == self._count:
            return None
        self.handed_out += 1
        return batch_of(self.handed_out - 1)


async def infer_nothing(batch: FrameBatch) -> Candidates:
    return Candidates.empty()


async def test_candidates_are_kept_in_the_order_of_the_frames_however_the_answers_come() -> None:
    answers = [asyncio.Event() for _ in range(6)]
    kept: list[int] = []

    async def infer(batch: FrameBatch) -> Candidates:
        # Every second answer waits for the one after it.
        if batch.slot % 2 == 0:
            await answers[batch.slot + 1].wait()
        answers[batch.slot].set()
        return Candidates.empty()

    async def keep(batch: FrameBatch, candidates: Candidates) -> None:
        kept.append(batch.slot)

    await infer_in_order(ListedBatches(6), infer, keep, max_in_flight=4)
    assert kept == list(range(6))


async def test_no_more_requests_are_open_than_allowed() -> None:
    now_open = most_open = 0

    async def infer(batch: FrameBatch) -> Candidates:
        nonlocal now_open, most_open
        now_open += 1
        most_open = max(most_open, now_open)
        for _ in range(10):
            await asyncio.sleep(0)
        now_open -= 1
        return Candidates.empty()

    async def keep(batch: FrameBatch, candidates: Candidates) -> None:
        return

    await infer_in_order(ListedBatches(20), infer, keep, max_in_flight=3)
    assert most_open == 3


async def test_a_failing_request_ends_the_segment_with_its_own_error() -> None:
    async def infer(batch: FrameBatch) -> Candidates:
        if batch.slot == 2:
            raise TritonTimeoutError("late")
        return await infer_nothing(batch)

    async def keep(batch: FrameBatch, candidates: Candidates) -> None:
        return

    with pytest.raises(ExceptionGroup) as failure:
        await infer_in_order(ListedBatches(50), infer, keep, max_in_flight=4)
    assert failure.group_contains(TritonTimeoutError)


async def test_a_failing_decoder_cancels_the_open_requests() -> None:
    cancelled: list[int] = []

    async def infer(batch: FrameBatch) -> Candidates:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(batch.slot)
            raise
        return Candidates.empty()

    async def keep(batch: FrameBatch, candidates: Candidates) -> None:
        raise AssertionError("nothing was answered")

    with pytest.raises(ExceptionGroup) as failure:
        await infer_in_order(ListedBatches(9, fails_at=3), infer, keep, max_in_flight=8)
    assert failure.group_contains(DecoderCrashedError)
    assert sorted(cancelled) == [0, 1, 2]
