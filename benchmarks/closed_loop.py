"""Frames from memory through a real Triton and back, without a video: our client's side and the server's, no more."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from benchmarks.lab import Lab, MeasurementError
from benchmarks.pairs import Cost
from benchmarks.processes import cpu_s
from orchestrator.core.letterbox import fit_letterbox
from orchestrator.core.types import FrameBatch, FrameStamp, ServedModel
from orchestrator.inference.triton import Triton, open_triton
from orchestrator.settings import Transport, load_settings
from orchestrator.telemetry import Metrics
from orchestrator.video.slots import SlotPool, open_slots

Result = TypeVar("Result")

# As the orchestrator asks on a CPU: one request at work, the next one at the door.
BATCH_FRAMES: Final = 4
REQUESTS_IN_FLIGHT: Final = 2


class ClosedLoop:
    """Keeps requests in flight, each answer followed by the next request."""

    def __init__(self, runner: asyncio.Runner, triton: Triton, model: ServedModel, batches: list[FrameBatch]) -> None:
        self._runner = runner
        self._triton = triton
        self._model = model
        self._batches = batches

    def cost(self, frames: int) -> Cost:
        """Of so many frames; CPU of this process and the embedded Triton."""
        cpu_began_s, began_s = cpu_s(os.getpid()), time.perf_counter()
        requests = -(-frames // BATCH_FRAMES)
        self._runner.run(self._infer(requests))
        wall_s = time.perf_counter() - began_s
        return Cost(requests * BATCH_FRAMES, wall_s, cpu_s(os.getpid()) - cpu_began_s)

    async def _infer(self, requests: int) -> None:
        waiting = iter(range(requests))

        async def keep_asking(batch: FrameBatch) -> None:
            for _ in waiting:
                await self._triton.model.infer(self._model, batch)

        await asyncio.gather(*(keep_asking(batch) for batch in self._batches))


@contextmanager
def open_closed_loop(lab: Lab, frames: NDArray[np.uint8], transport: Transport) -> Iterator[ClosedLoop]:
    """frames: uint8 (N, H, W, 3), letterboxed, of which the first fill the slots."""
    with asyncio.Runner() as runner:
        ready: asyncio.Future[tuple[Triton, ServedModel, list[FrameBatch]]] = runner.get_loop().create_future()
        stop = asyncio.Event()
        serving = runner.get_loop().create_task(_serve(lab, frames, transport, ready, stop))
        triton, model, batches = runner.run(_first(ready, serving))
        try:
            loop = ClosedLoop(runner, triton, model, batches)
            loop.cost(4 * BATCH_FRAMES)
            yield loop
        finally:
            stop.set()
            runner.run(_first(serving))


async def _first(*awaited: asyncio.Future[Result]) -> Result:
    """The result of whichever ends first."""
    done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
    return done.pop().result()


async def _serve(
    lab: Lab,
    frames: NDArray[np.uint8],
    transport: Transport,
    ready: asyncio.Future[tuple[Triton, ServedModel, list[FrameBatch]]],
    stop: asyncio.Event,
) -> Any:
    """One task from the start of Triton to its end."""
    environment = {**os.environ, "TRIREEL_MODEL_REPOSITORY": str(lab.repository)}
    settings = replace(load_settings(environment).triton, transport=transport)
    metrics = Metrics(CollectorRegistry())
    slot_bytes = BATCH_FRAMES * frames[0].nbytes
    with open_slots(count=REQUESTS_IN_FLIGHT, slot_bytes=slot_bytes, metrics=metrics) as slots:
        async with open_triton(settings, slots, metrics=metrics, log_dir=lab.scratch / f"triton_{transport}") as triton:
            await triton.wait_connected()
            model = await triton.catalogue.find(lab.model)
            ready.set_result((triton, model, [_filled(slots, frames) for _ in range(REQUESTS_IN_FLIGHT)]))
            await stop.wait()


def _filled(slots: SlotPool, frames: NDArray[np.uint8]) -> FrameBatch:
    """The first frames in a slot of their own."""
    slot = slots.try_lease()
    if slot is None:
        raise MeasurementError("there are fewer slots than requests in flight")
    height, width = frames.shape[1:3]
    pixels = slots.view(slot, (BATCH_FRAMES, height, width, 3))
    pixels[...] = frames[:BATCH_FRAMES]
    stamps = tuple(FrameStamp(number, 0.0) for number in range(BATCH_FRAMES))
    return FrameBatch(slot, pixels, stamps, fit_letterbox(width, height, imgsz=max(width, height), stride=32))
