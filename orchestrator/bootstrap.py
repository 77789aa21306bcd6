"""The composition root: settings in, running services out. Each thing is opened in one place and closes itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from orchestrator.composition import Parts, Tuning, UseCases
from orchestrator.core.contract import FRAME_CHANNELS
from orchestrator.core.records import JsonValue
from orchestrator.core.states import JobState
from orchestrator.events.opening import open_event_bus
from orchestrator.following import Following
from orchestrator.inference.published import largest_imgsz, load_certificate
from orchestrator.inference.triton import Triton, TritonReadiness, open_triton
from orchestrator.jobs import Jobs
from orchestrator.ports import EventBus, JobStore, ModelCatalogue
from orchestrator.results import Results
from orchestrator.scheduling.local import Bell, Loop, run_loops
from orchestrator.settings import Settings
from orchestrator.storage.engine import is_shareable
from orchestrator.storage.reconcile import recover
from orchestrator.storage.stores import Stores, open_stores
from orchestrator.telemetry import Metrics
from orchestrator.video.decoders import Decoders, open_decoders
from orchestrator.video.slots import SlotPool, open_slots
from orchestrator.videos import Videos

# What nearly all models take. Larger ones put fewer frames into a slot: memory is fixed at the start, and four
# decoders with room for batches of 1920 px would take half a gigabyte.
USUAL_IMGSZ: Final = 640
# Batches per decoder that may be filled, in flight or waiting to be kept.
SLOTS_A_DECODER: Final = 4
# Children kept open between segments, for each segment worked on. An open 1280x720 decoder takes 25 MB, entering a file
# anew a few frames: 16 of them took twenty jobs from 390 to 600 MB.
IDLE_A_DECODER: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """reasons: whatever is amiss. transport: "shm" or "grpc"; transport_reason: why over gRPC.

    triton_metrics_url: empty where only Triton's owner knows it.
    """

    is_ready: bool
    reasons: tuple[str, ...]
    transport: str
    transport_reason: str
    triton_url: str
    triton_metrics_url: str


class TritonProbe(Protocol):
    async def readiness(self) -> TritonReadiness:
        """Ask Triton now; does not fail."""


class LoadingCatalogue(ModelCatalogue, Protocol):
    async def load(self, name: str) -> None:
        """Serve what was published under `name`. Raises ModelNotFoundError, ModelNotReadyError, InferenceError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything the web layer translates calls to."""

    settings: Settings
    metrics: Metrics
    videos: Videos
    jobs: Jobs
    results: Results
    following: Following
    catalogue: LoadingCatalogue
    triton: TritonProbe
    job_store: JobStore

    async def readiness(self) -> Readiness:
        """Ask Triton now; does not fail."""
        triton = await self.triton.readiness()
        return Readiness(
            is_ready=triton.is_ready,
            reasons=triton.reasons,
            transport=triton.transport,
            transport_reason=triton.transport_reason,
            triton_url=triton.grpc_url,
            triton_metrics_url=triton.metrics_url or "",
        )

    async def load_model(self, name: str) -> None:
        """Have Triton load what was published under `name`. Raises ModelNotFoundError, InferenceError."""
        await self.catalogue.load(name)

    async def certificate(self, name: str, version: int) -> Mapping[str, JsonValue] | None:
        """The certificate in the version's folder; None where this machine does not have the repository."""
        return await asyncio.to_thread(load_certificate, self.settings.triton.model_repository, name, version)

    async def refresh_metrics(self) -> None:
        """Set the gauges that are read from the database."""
        counts = await self.job_store.counts()
        for state in JobState:
            self.metrics.jobs.labels(state.value).set(counts.get(state, 0))
        self.metrics.queued_jobs.set(counts.get(JobState.QUEUED, 0))


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Open everything one process needs, and start working on what is in the database."""
    metrics = Metrics(CollectorRegistry())
    bell = Bell()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings.storage))
        await recover(stores)
        is_shared = is_shareable(settings.storage.database_url)
        events = await stack.enter_async_context(
            open_event_bus(settings.redis, events=stores.events, is_shared=is_shared, work=bell)
        )
        slots = stack.enter_context(_slots(settings, metrics))
        triton = await stack.enter_async_context(
            open_triton(settings.triton, slots, metrics=metrics, log_dir=settings.storage.data_dir / "logs")
        )
        decoders = await stack.enter_async_context(
            open_decoders(
                limits=settings.limits,
                stall_timeout_s=settings.work.stall_timeout_s,
                slots=slots,
                metrics=metrics,
                most_idle=IDLE_A_DECODER * settings.work.decoders,
            )
        )
        use_cases = UseCases(_parts(stores, slots, triton, decoders, events.bus, bell, metrics), _tuning(settings))
        loops = [
            *_loops(use_cases, workers=settings.work.decoders),
            *(Loop(name, step) for name, step in events.steps.items()),
        ]
        await stack.enter_async_context(run_loops(loops, bell, stop_timeout_s=settings.http.stop_timeout_s / 2))
        yield Services(
            settings=settings,
            metrics=metrics,
            videos=use_cases.videos,
            jobs=use_cases.jobs,
            results=use_cases.results,
            following=use_cases.following,
            catalogue=triton.catalogue,
            triton=triton,
            job_store=stores.jobs,
        )


def _parts(
    stores: Stores, slots: SlotPool, triton: Triton, decoders: Decoders, bus: EventBus, bell: Bell, metrics: Metrics
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
        utc_now=_utc_now,
        monotonic_s=time.monotonic,
    )


def _tuning(settings: Settings) -> Tuning:
    return Tuning(
        segment_frames=settings.work.segment_frames,
        batch_frames=settings.work.batch_frames,
        # On a CPU a model takes a frame a core at once; the next ones wait at its door.
        window_frames=2 * max(settings.work.batch_frames, settings.work.cores),
        max_running_jobs=settings.work.max_running_jobs,
        lease_s=settings.work.lease_s,
    )


def _loops(use_cases: UseCases, *, workers: int) -> list[Loop]:
    """All that goes on in the background."""
    return [
        Loop("indexer", use_cases.videos.index_next),
        Loop("planner", use_cases.upkeep.admit_and_plan),
        Loop("finalizer", use_cases.upkeep.finalize_next),
        *(Loop(f"worker-{number}", use_cases.worker().work_once) for number in range(workers)),
    ]


def _slots(settings: Settings, metrics: Metrics) -> AbstractContextManager[SlotPool]:
    """Room for whole batches of usual frames, and for at least one frame of the largest model that is published."""
    largest = largest_imgsz(settings.triton.model_repository)
    usual_bytes = settings.work.batch_frames * USUAL_IMGSZ * USUAL_IMGSZ * FRAME_CHANNELS
    slot_bytes = max(usual_bytes, largest * largest * FRAME_CHANNELS)
    return open_slots(count=SLOTS_A_DECODER * settings.work.decoders, slot_bytes=slot_bytes, metrics=metrics)


def _utc_now() -> datetime:
    return datetime.now(UTC)
