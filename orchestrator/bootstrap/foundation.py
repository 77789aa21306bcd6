"""What every program of ours stands on: stores, slots, the way to Triton, decoders, and use cases joined to them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from orchestrator.composition import Parts, Tuning, UseCases
from orchestrator.core.contract import FRAME_CHANNELS
from orchestrator.events.opening import OpenEventBus, open_event_bus
from orchestrator.inference.published import largest_imgsz
from orchestrator.inference.retrying import LONGEST_BUDGET_S, Retrying
from orchestrator.inference.triton import Triton, open_triton
from orchestrator.ports import EventBus
from orchestrator.scheduling.doorbell import Doorbells, open_doorbells
from orchestrator.scheduling.local import Bell, Loop
from orchestrator.settings import Settings
from orchestrator.storage.clock import DatabaseClock
from orchestrator.storage.engine import is_shareable
from orchestrator.storage.reconcile import recover
from orchestrator.storage.stores import Stores, open_stores
from orchestrator.telemetry import Metrics
from orchestrator.video.decoders import Decoders, open_decoders
from orchestrator.video.slots import SlotPool, open_slots

# What nearly all models take. Larger ones put fewer frames into a slot: memory is fixed at the start, and four
# decoders with room for batches of 1920 px would take half a gigabyte.
USUAL_IMGSZ: Final = 640
# Batches per decoder that may be filled, in flight or waiting to be kept.
SLOTS_A_DECODER: Final = 4
# Children kept open between segments, for each segment worked on. An open 1280x720 decoder takes 25 MB, entering a file
# anew a few frames: 16 of them took twenty jobs from 390 to 600 MB.
IDLE_A_DECODER: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """bell: of this process. doorbells: of the cluster, None where this process does all the work itself.

    background: what has to go on beside the work, so that this process agrees with others on the time and hears of what
    they write.
    """

    metrics: Metrics
    bell: Bell
    doorbells: Doorbells | None
    stores: Stores
    triton: Triton
    use_cases: UseCases
    background: Sequence[Loop]


@asynccontextmanager
async def open_foundation(settings: Settings, *, takers: int, triton_log_dir: Path) -> AsyncIterator[Foundation]:
    """takers: of segments in this process, none where workers take them all. Nothing is at work yet."""
    metrics = Metrics(CollectorRegistry())
    bell = Bell()
    async with AsyncExitStack() as stack:
        doorbells = None
        if settings.redis.url is not None:
            doorbells = await stack.enter_async_context(open_doorbells(settings.redis.url))
        stores = await stack.enter_async_context(open_stores(settings.storage))
        await recover(stores)
        is_shared = is_shareable(settings.storage.database_url)
        events = await stack.enter_async_context(
            open_event_bus(settings.redis, events=stores.events, is_shared=is_shared, work=bell)
        )
        slots = stack.enter_context(_slots(settings, takers, metrics))
        triton = await stack.enter_async_context(
            open_triton(settings.triton, slots, metrics=metrics, log_dir=triton_log_dir, retrying=_retrying(settings))
        )
        decoders = await stack.enter_async_context(
            open_decoders(
                limits=settings.limits,
                stall_timeout_s=settings.work.stall_timeout_s,
                slots=slots,
                metrics=metrics,
                most_idle=IDLE_A_DECODER * takers,
            )
        )
        parts = _parts(stores, slots, triton, decoders, events.bus, bell, metrics)
        yield Foundation(
            metrics=metrics,
            bell=bell,
            doorbells=doorbells,
            stores=stores,
            triton=triton,
            use_cases=UseCases(parts, _tuning(settings)),
            background=_background(stores, events),
        )


def _background(stores: Stores, events: OpenEventBus) -> list[Loop]:
    loops = [Loop(name, step) for name, step in events.steps.items()]
    if isinstance(stores.clock, DatabaseClock):
        loops.append(Loop("clock", stores.clock.keep_set))
    return loops


def _parts(
    stores: Stores,
    slots: SlotPool,
    triton: Triton,
    decoders: Decoders,
    bus: EventBus,
    bell: Bell,
    metrics: Metrics,
) -> Parts:
    return Parts(
        stores=stores,
        reader=decoders,
        slots=slots,
        model=triton.model,
        catalogue=triton.catalogue,
        bus=bus,
        work=bell,
        metrics=metrics,
        utc_now=stores.clock.utc_now,
        monotonic_s=time.monotonic,
    )


def _retrying(settings: Settings) -> Retrying:
    """A request is not asked again for longer than its run may wait."""
    return Retrying(budget_s=min(LONGEST_BUDGET_S, settings.work.wait_budget_s))


def _tuning(settings: Settings) -> Tuning:
    return Tuning(
        segment_frames=settings.work.segment_frames,
        batch_frames=settings.work.batch_frames,
        # On a CPU a model takes a frame a core at once; the next ones wait at its door.
        window_frames=2 * max(settings.work.batch_frames, settings.work.cores),
        max_running_jobs=settings.work.max_running_jobs,
        lease_s=settings.work.lease_s,
        wait_budget_s=settings.work.wait_budget_s,
    )


def _slots(settings: Settings, takers: int, metrics: Metrics) -> AbstractContextManager[SlotPool]:
    """Room for whole batches of usual frames, and for at least one frame of the largest model that is published.

    A process that takes no segments fills no slots; one byte keeps the region that tells whether Triton could read it.
    """
    if not takers:
        return open_slots(count=1, slot_bytes=1, metrics=metrics)
    largest = largest_imgsz(settings.triton.model_repository)
    usual_bytes = settings.work.batch_frames * USUAL_IMGSZ * USUAL_IMGSZ * FRAME_CHANNELS
    slot_bytes = max(usual_bytes, largest * largest * FRAME_CHANNELS)
    return open_slots(count=SLOTS_A_DECODER * takers, slot_bytes=slot_bytes, metrics=metrics)
