"""Batches under which Triton breaks: the guilty one ends as an error, the others are inferred."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.core.types import FrameBatch, FrameStamp
from orchestrator.errors import BatchBreaksTritonError, TritonBrokeError
from orchestrator.inference.retrying import Retrying
from orchestrator.video.slots import SlotPool
from tests.support.fake_kserve import FakeKserve, break_down, fake_kserve, wait_for_release
from tests.support.triton import DYING, MEAN_COLOUR, batch_in, noise, reaching, triton_settings

QUICK = Retrying(first_s=0.01, longest_s=0.05, budget_s=20)
ONCE = Retrying(budget_s=0)


@pytest.fixture
def fake() -> Iterator[FakeKserve]:
    with fake_kserve() as server:
        yield server


def poison() -> NDArray[np.uint8]:
    frames = noise(2)
    frames[0, 0, 0] = DYING
    return frames


def stamped(batch: FrameBatch, first_index: int) -> FrameBatch:
    stamps = tuple(FrameStamp(first_index + i, (first_index + i) * 40.0) for i in range(len(batch.stamps)))
    return FrameBatch(batch.slot, batch.pixels, stamps, batch.letterbox)


async def test_a_batch_that_breaks_triton_three_times_is_given_up(fake: FakeKserve, slots: SlotPool) -> None:
    settings = triton_settings(Path("unused"), TRITON_URL=fake.url)
    async with reaching(settings, slots, retrying=QUICK) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        batch = stamped(batch_in(slots, 0, poison()), 40)
        with pytest.raises(BatchBreaksTritonError, match="3 times in a row under frames 40 to 41") as caught:
            await triton.model.infer(model, batch)
        assert (caught.value.code, caught.value.retryable) == ("batch_breaks_triton", False)
        assert len(fake.deaths) == 3
        # It may be tried anew, when the model was put right.
        fake.faults["ModelInfer"] = break_down
        with pytest.raises(BatchBreaksTritonError):
            await triton.model.infer(model, batch)
        assert len(fake.deaths) == 6


async def test_breaks_are_counted_over_attempts_at_the_segment(fake: FakeKserve, slots: SlotPool) -> None:
    """A server with large models takes longer to start again than a batch is retried."""
    settings = triton_settings(Path("unused"), TRITON_URL=fake.url)
    async with reaching(settings, slots, retrying=ONCE) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        for slot, error in enumerate((TritonBrokeError, TritonBrokeError, BatchBreaksTritonError)):
            with pytest.raises(error):
                await triton.model.infer(model, batch_in(slots, slot, poison()))
            while not (await triton.readiness()).is_ready:
                pass
        assert len(fake.deaths) == 3


async def test_an_answer_ends_the_row(fake: FakeKserve, slots: SlotPool) -> None:
    settings = triton_settings(Path("unused"), TRITON_URL=fake.url)
    async with reaching(settings, slots, retrying=QUICK) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        for _ in range(3):
            fake.fail_next(break_down, break_down)
            assert (await triton.model.infer(model, batch_in(slots, 0, noise(2)))).shape == (2, 300, 6)
        assert len(fake.deaths) == 6


async def test_batches_beside_the_guilty_one_are_inferred(fake: FakeKserve, slots: SlotPool) -> None:
    settings = triton_settings(Path("unused"), TRITON_URL=fake.url)
    async with reaching(settings, slots, retrying=QUICK) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        innocents = [stamped(batch_in(slots, slot, noise(3)), 10 * slot) for slot in range(1, 7)]
        # All are under way when the first one breaks it.
        fake.fail_next(*[wait_for_release] * len(innocents))
        requests = [asyncio.ensure_future(triton.model.infer(model, batch)) for batch in innocents]
        await fake.until(lambda server: server.in_flight["ModelInfer"] == len(innocents))
        with pytest.raises(BatchBreaksTritonError):
            await triton.model.infer(model, batch_in(slots, 0, poison()))
        for batch, request in zip(innocents, requests, strict=True):
            expected = batch.pixels[..., 0].mean(axis=(1, 2)) / 255
            assert (await request)[:, 0, 4] == pytest.approx(expected)
    assert (len(fake.deaths), fake.deaths[0], fake.deaths[-1]) == (3, 7, 1)


async def test_a_guilty_batch_breaks_no_more_than_three_of_many_servers(slots: SlotPool) -> None:
    with fake_kserve() as first, fake_kserve() as second, fake_kserve() as third, fake_kserve() as fourth:
        servers = (first, second, third, fourth)
        settings = triton_settings(Path("unused"), TRITON_URL=",".join(server.url for server in servers))
        async with reaching(settings, slots, retrying=QUICK) as triton:
            model = await triton.catalogue.find(MEAN_COLOUR)
            with pytest.raises(BatchBreaksTritonError):
                await triton.model.infer(model, batch_in(slots, 0, poison()))
            assert sum(len(server.deaths) for server in servers) == 3
            assert (await triton.model.infer(model, batch_in(slots, 1, noise(1)))).shape == (1, 300, 6)


async def test_a_server_that_is_killed_condemns_nobody(fake: FakeKserve, slots: SlotPool) -> None:
    settings = triton_settings(Path("unused"), TRITON_URL=fake.url)
    async with reaching(settings, slots, retrying=QUICK) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        batches = [batch_in(slots, slot, noise(4)) for slot in range(8)]
        for _ in range(5):
            requests = [asyncio.ensure_future(triton.model.infer(model, batch)) for batch in batches]
            await fake.until(lambda server: server.calls["ModelInfer"] > 0)
            await fake.go_away()
            await fake.come_back()
            answers = await asyncio.gather(*requests)
            assert all(answer.shape == (4, 300, 6) for answer in answers)
