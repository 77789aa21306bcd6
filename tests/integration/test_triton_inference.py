"""Batches through a real Triton, by shared memory and by gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from orchestrator.inference.triton import Triton, open_triton
from orchestrator.settings import Transport
from orchestrator.telemetry import Metrics
from orchestrator.video.slots import SlotPool
from tests.support.triton import MEAN_COLOUR, RunningTriton, batch_in

pytestmark = pytest.mark.needs("triton")


@asynccontextmanager
async def opened(server: RunningTriton, slots: SlotPool, transport: Transport = "auto") -> AsyncIterator[Triton]:
    settings = replace(server.settings, transport=transport)
    async with open_triton(settings, slots, metrics=Metrics(CollectorRegistry()), log_dir=Path("unused")) as triton:
        yield triton


def noise(n: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(4, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("transport", ["shm", "grpc"])
async def test_every_batch_position_tells_its_own_frame(
    embedded_triton: RunningTriton, slots: SlotPool, transport: Transport
) -> None:
    frames = noise(4)
    frames[2] //= 2
    async with opened(embedded_triton, slots, transport) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        candidates = await triton.model.infer(model, batch_in(slots, 3, frames))
        readiness = await triton.readiness()
    assert candidates.shape == (4, 300, 6)
    assert candidates.dtype == np.float32
    assert candidates[:, 0, 4] == pytest.approx(frames[..., 0].mean(axis=(1, 2)) / 255)
    assert candidates[:, 0, 2:4].tolist() == [[128, 96]] * 4
    assert not candidates[:, 1:].any()
    assert (readiness.is_ready, readiness.transport) == (True, transport)
