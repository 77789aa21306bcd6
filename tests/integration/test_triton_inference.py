"""Batches through Triton, by shared memory and by gRPC: the real one, and the fake that stands for it elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2

from orchestrator.errors import (
    InferenceError,
    ModelChangedError,
    ModelNotFoundError,
    SharedMemoryRefusedError,
    TritonTimeoutError,
)
from orchestrator.inference.retrying import Retrying
from orchestrator.inference.slot_region import RegionRegistration
from orchestrator.settings import Transport
from orchestrator.telemetry import Metrics
from orchestrator.video.slots import SlotPool
from tests.support.either_triton import EitherTriton, registered_keys, stranger_at
from tests.support.triton import (
    FAILING,
    MEAN_COLOUR,
    SLOW,
    batch_in,
    noise,
    reaching,
)

IMPATIENT = Retrying(first_s=0.01, budget_s=0.05)


class UnreachableRegion:
    """As Triton sees the slots of another host: a name that it cannot open."""

    key = "/trireel_of_another_host"
    byte_size = 4096

    def offset(self, slot: int) -> int:
        return 0


def asking(first_pixel: Sequence[int]) -> NDArray[np.uint8]:
    """One frame that asks the model for trouble."""
    frames = noise(1)
    frames[0, 0, 0] = first_pixel
    return frames


@pytest.mark.parametrize("transport", ["shm", "grpc"])
async def test_every_batch_position_tells_its_own_frame(
    either_triton: EitherTriton, slots: SlotPool, transport: Transport
) -> None:
    frames = noise(4)
    async with reaching(either_triton.settings, slots, transport=transport) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        candidates = await triton.model.infer(model, batch_in(slots, 3, frames))
        readiness = await triton.readiness()
    assert candidates.shape == (4, 300, 6)
    assert candidates.dtype == np.float32
    assert candidates[:, 0, 4] == pytest.approx(frames[..., 0].mean(axis=(1, 2)) / 255)
    assert candidates[:, 0, 2:4].tolist() == [[128, 96]] * 4
    assert not candidates[:, 1:].any()
    assert (readiness.is_ready, readiness.transport) == (True, transport)


async def test_many_slots_in_flight_keep_their_frames_apart(either_triton: EitherTriton, slots: SlotPool) -> None:
    batches = [batch_in(slots, slot, noise(1 + slot % 4, 32 + 32 * (slot % 2))) for slot in range(slots.count)]
    async with reaching(either_triton.settings, slots) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        answers = await asyncio.gather(*(triton.model.infer(model, batch) for batch in batches))
    for batch, candidates in zip(batches, answers, strict=True):
        assert candidates[:, 0, 4] == pytest.approx(batch.pixels[..., 0].mean(axis=(1, 2)) / 255)


async def test_auto_falls_back_to_grpc_and_says_why(either_triton: EitherTriton, slots: SlotPool) -> None:
    frames = noise(2)
    async with reaching(either_triton.settings, UnreachableRegion(), transport="auto") as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        candidates = await triton.model.infer(model, batch_in(slots, 0, frames))
        readiness = await triton.readiness()
    assert candidates[:, 0, 4] == pytest.approx(frames[..., 0].mean(axis=(1, 2)) / 255)
    assert readiness.transport == "grpc"
    assert "Unable to open shared memory region" in readiness.transport_reason


async def test_shm_insists(either_triton: EitherTriton, slots: SlotPool) -> None:
    async with reaching(either_triton.settings, UnreachableRegion(), transport="shm") as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        with pytest.raises(SharedMemoryRefusedError, match="TRIREEL_TRANSPORT=auto"):
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
        readiness = await triton.readiness()
    assert not readiness.is_ready
    assert "Triton refused shared memory" in readiness.reasons[0]


async def test_readiness_knows_the_transport_before_the_first_batch(either_triton: EitherTriton) -> None:
    async with reaching(either_triton.settings, UnreachableRegion(), transport="auto") as triton:
        assert (await triton.readiness()).transport == "grpc"


async def test_a_region_that_triton_was_told_to_forget_is_registered_again(
    either_triton: EitherTriton, slots: SlotPool
) -> None:
    async with (
        reaching(either_triton.settings, slots, transport="shm") as triton,
        stranger_at(either_triton.url) as stranger,
    ):
        model = await triton.catalogue.find(MEAN_COLOUR)
        await triton.model.infer(model, batch_in(slots, 0, noise(1)))
        everything = service_pb2.SystemSharedMemoryUnregisterRequest()
        await stranger.call("SystemSharedMemoryUnregister", lambda: everything, timeout_s=5)
        assert await registered_keys(stranger) == set()
        assert (await triton.model.infer(model, batch_in(slots, 0, noise(2)))).shape == (2, 300, 6)


async def test_a_region_that_triton_still_knows_counts_as_registered(
    either_triton: EitherTriton, slots: SlotPool
) -> None:
    async with stranger_at(either_triton.url) as connection:
        registration = RegionRegistration(connection, slots, "shm")
        name = await registration.name()
        registration.forget()
        assert await registration.name() == name
        assert await registered_keys(connection) == {slots.key}
        await registration.unregister()
        assert await registered_keys(connection) == set()


async def test_a_failing_model_fails_its_request_at_once(either_triton: EitherTriton, slots: SlotPool) -> None:
    async with reaching(either_triton.settings, slots) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        with pytest.raises(InferenceError, match=r"mean_colour:1: .*a frame asked to fail") as caught:
            await triton.model.infer(model, batch_in(slots, 0, asking(FAILING)))
        assert not caught.value.retryable
        assert (await triton.model.infer(model, batch_in(slots, 0, noise(1)))).shape == (1, 300, 6)


async def test_no_request_outlives_its_deadline(either_triton: EitherTriton, slots: SlotPool) -> None:
    metrics = Metrics(CollectorRegistry())
    hurried = replace(either_triton.settings, timeout_s=0.1)
    async with reaching(hurried, slots, retrying=IMPATIENT, metrics=metrics) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        with pytest.raises(TritonTimeoutError):
            await triton.model.infer(model, batch_in(slots, 0, asking(SLOW)))
    assert metrics.registry.get_sample_value("trireel_frames_in_flight") == 0
    assert metrics.registry.get_sample_value("trireel_frames_inferred_total", {"model": MEAN_COLOUR}) is None


async def test_cancelling_a_request_ends_it(either_triton: EitherTriton, slots: SlotPool) -> None:
    async with reaching(either_triton.settings, slots) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await triton.model.infer(model, batch_in(slots, 0, asking(SLOW)))
        frames = noise(2)
        candidates = await triton.model.infer(model, batch_in(slots, 0, frames))
    assert candidates[:, 0, 4] == pytest.approx(frames[..., 0].mean(axis=(1, 2)) / 255)


async def test_what_was_inferred_is_counted(either_triton: EitherTriton, slots: SlotPool) -> None:
    metrics = Metrics(CollectorRegistry())
    async with reaching(either_triton.settings, slots, metrics=metrics) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        for n in (4, 3):
            await triton.model.infer(model, batch_in(slots, 0, noise(n)))
    sample = metrics.registry.get_sample_value
    assert sample("trireel_frames_inferred_total", {"model": MEAN_COLOUR}) == 7
    assert sample("trireel_inference_seconds_count", {"model": MEAN_COLOUR}) == 2
    assert sample("trireel_batch_frames_sum", {"model": MEAN_COLOUR}) == 7


async def test_another_network_under_the_same_version_is_refused(either_triton: EitherTriton, slots: SlotPool) -> None:
    async with reaching(either_triton.settings, slots) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        before = replace(model, version=replace(model.version, digest="c" * 64))
        with pytest.raises(ModelChangedError, match="another network as mean_colour:1"):
            await triton.model.infer(before, batch_in(slots, 0, noise(1)))


async def test_unknown_models_are_not_found(either_triton: EitherTriton, slots: SlotPool) -> None:
    async with reaching(either_triton.settings, slots) as triton:
        with pytest.raises(ModelNotFoundError, match="no model trucks"):
            await triton.catalogue.find("trucks")
        with pytest.raises(ModelNotFoundError, match="no model mean_colour:7"):
            await triton.catalogue.find(MEAN_COLOUR, 7)
        with pytest.raises(ModelNotFoundError, match="no model trucks"):
            await triton.catalogue.load("trucks")


async def test_loading_leaves_what_is_served_at_work(either_triton: EitherTriton, slots: SlotPool) -> None:
    async with reaching(either_triton.settings, slots) as triton:
        await triton.catalogue.load(MEAN_COLOUR)
        model = await triton.catalogue.find(MEAN_COLOUR)
        assert (await triton.model.infer(model, batch_in(slots, 0, noise(1)))).shape == (1, 300, 6)


async def test_a_closed_connection_leaves_nothing_registered(either_triton: EitherTriton, slots: SlotPool) -> None:
    async with stranger_at(either_triton.url) as stranger:
        async with reaching(either_triton.settings, slots, transport="shm") as triton:
            model = await triton.catalogue.find(MEAN_COLOUR)
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
            assert await registered_keys(stranger) == {slots.key}
        assert await registered_keys(stranger) == set()
