"""The API's services: what the web layer translates calls to, and what goes on beside it in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from orchestrator.bootstrap.foundation import Foundation, open_foundation
from orchestrator.core.records import JsonValue
from orchestrator.core.states import JobState
from orchestrator.errors import DoorbellError, StorageError
from orchestrator.following import Following
from orchestrator.inference.published import load_certificate
from orchestrator.inference.readiness import EndpointReadiness, TritonReadiness
from orchestrator.jobs import Jobs
from orchestrator.ports import EventStore, JobStore, ModelCatalogue
from orchestrator.results import Results
from orchestrator.scheduling.doorbell import Doorbells, RingingWhileWorkWaits
from orchestrator.scheduling.local import Loop, run_loops
from orchestrator.settings import Settings
from orchestrator.telemetry import Metrics
from orchestrator.videos import Videos

# What readiness waits for an answer, as long as Triton is given: a monitor waits for all.
ANSWER_TIMEOUT_S: Final = 3.0
NOT_RUNG: Final = "workers are not rung and look by themselves every few seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """reasons: whatever is amiss. transport: "shm", "grpc" or "mixed"; transport_reason: why over gRPC.

    triton_url: several are parted by commas. triton_metrics_url: empty where only Triton's owner knows it.
    """

    is_ready: bool
    reasons: tuple[str, ...]
    transport: str
    transport_reason: str
    triton_url: str
    triton_metrics_url: str
    tritons: tuple[EndpointReadiness, ...]


class TritonProbe(Protocol):
    async def readiness(self) -> TritonReadiness:
        """Ask Triton now; does not fail."""


class LoadingCatalogue(ModelCatalogue, Protocol):
    async def load(self, name: str) -> None:
        """Serve what was published under `name`. Raises ModelNotFoundError, ModelNotReadyError, InferenceError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything the web layer translates calls to. doorbells: of the workers, None where this process works itself."""

    settings: Settings
    metrics: Metrics
    videos: Videos
    jobs: Jobs
    results: Results
    following: Following
    catalogue: LoadingCatalogue
    triton: TritonProbe
    job_store: JobStore
    event_store: EventStore
    doorbells: Doorbells | None = None

    async def readiness(self) -> Readiness:
        """Ask Triton, the database and, where there are workers, Redis now; does not fail."""
        triton, of_database, of_workers = await asyncio.gather(
            self.triton.readiness(), self._lacks_of_database(), self._lacks_of_workers()
        )
        return Readiness(
            is_ready=triton.is_ready and not of_database,
            reasons=(*triton.reasons, *of_database, *of_workers),
            transport=triton.transport,
            transport_reason=triton.transport_reason,
            triton_url=triton.grpc_url,
            triton_metrics_url=triton.metrics_url or "",
            tritons=triton.endpoints,
        )

    async def _lacks_of_database(self) -> tuple[str, ...]:
        """Without it nothing can be asked, taken or kept."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self.event_store.last_id()
        except TimeoutError:
            return (f"the database does not answer within {ANSWER_TIMEOUT_S:g} s",)
        except StorageError as exc:
            return (f"the database: {exc}",)
        return ()

    async def _lacks_of_workers(self) -> tuple[str, ...]:
        """What is amiss on the way to workers. Jobs are taken all the same, and wait."""
        if self.doorbells is None:
            return ()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                is_any = await self.doorbells.workers() > 0
        except TimeoutError:
            return (f"{NOT_RUNG}: Redis does not answer within {ANSWER_TIMEOUT_S:g} s",)
        except DoorbellError as exc:
            return (f"{NOT_RUNG}: {exc}",)
        return () if is_any else ("no worker is at work; start one with `trireel worker`",)

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
    """Open everything that the API needs, and start working on what is in the database.

    With a Redis, segments are left to workers, who are told of them.
    """
    takers = 0 if settings.redis.url else settings.work.decoders
    async with AsyncExitStack() as stack:
        foundation = await stack.enter_async_context(
            open_foundation(settings, takers=takers, triton_log_dir=settings.storage.data_dir / "logs")
        )
        stop_timeout_s = settings.http.stop_timeout_s / 2
        await stack.enter_async_context(
            run_loops(_loops(foundation, takers=takers), foundation.bell, stop_timeout_s=stop_timeout_s)
        )
        use_cases = foundation.use_cases
        yield Services(
            settings=settings,
            metrics=foundation.metrics,
            videos=use_cases.videos,
            jobs=use_cases.jobs,
            results=use_cases.results,
            following=use_cases.following,
            catalogue=foundation.triton.catalogue,
            triton=foundation.triton,
            job_store=foundation.stores.jobs,
            event_store=foundation.stores.events,
            doorbells=foundation.doorbells,
        )


def _loops(foundation: Foundation, *, takers: int) -> list[Loop]:
    """All that goes on in the background."""
    use_cases, stores = foundation.use_cases, foundation.stores
    loops = [
        Loop("indexer", use_cases.videos.index_next),
        Loop("planner", use_cases.upkeep.admit_and_plan),
        Loop("finalizer", use_cases.upkeep.finalize_next),
        *(Loop(f"worker-{number}", use_cases.worker().work_once) for number in range(takers)),
        *foundation.background,
    ]
    if foundation.doorbells is not None:
        ringing = RingingWhileWorkWaits(
            foundation.doorbells, lambda: stores.runs.has_free_segment(now=stores.clock.utc_now())
        )
        loops.append(Loop("doorbell", ringing.step))
    return loops
