"""A whole process on real stores in this one, stepped by hand, that can die at any call and be started again.

Decoders and Triton are the fakes that pass the contract suites: what is tried here is storing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client import CollectorRegistry

from orchestrator.bootstrap import Services
from orchestrator.composition import Parts, Tuning, UseCases
from orchestrator.errors import TrireelError
from orchestrator.events.memory import MemoryEventBus
from orchestrator.ports import CandidateArchive, Model, VideoFiles
from orchestrator.scheduling.local import Bell
from orchestrator.settings import StorageSettings, load_settings
from orchestrator.storage.lock import DataDirHold
from orchestrator.storage.reconcile import recover
from orchestrator.storage.stores import Stores, open_stores
from orchestrator.telemetry import Metrics
from orchestrator.testing.fake_model import FakeModel, served_model
from orchestrator.testing.fake_reader import FakeSlots, FakeVideoReader, GeneratedVideo
from orchestrator.web.app import build_app
from orchestrator.working import Worker
from tests.faults.counted_calls import CallCounter, CountedPort, ProcessDied
from tests.faults.evidence import SUCCEEDED, AcceptedJob, Evidence, Leftovers, PlannedFault, Undisturbed
from tests.faults.gathering import gather_files, gather_job, gather_rows
from tests.faults.recorded_http import ErrorLog
from tests.support.process import Clock
from tests.support.web_process import FakeTriton

VIDEO: Final = GeneratedVideo(frame_count=40)
SEGMENT_FRAMES: Final = 16
LEASE_S: Final = 5.0
# Longer than a sweep lets a job wait.
WAIT_BUDGET_S: Final = 3600.0
# Of a loop: after work without a result, and after a failure.
IDLE_S: Final = 1.0
MOST_STEPS: Final = 400
MOST_LIVES: Final = 3
DATABASE: Final = "trireel.db"


@dataclass(frozen=True, slots=True)
class CountedStores:
    """Implements `ports.Stores`, and what `recover` asks of the real ones."""

    videos: Any
    jobs: Any
    runs: Any
    parts: Any
    events: Any
    archive: Any
    files: Any
    data_dir: DataDirHold


@dataclass(slots=True)
class Life:
    """One life of the process."""

    use_cases: UseCases
    worker: Worker
    http: httpx.AsyncClient
    clock: Clock

    async def step(self) -> None:
        """A round of every loop; what fails is tried again, as the loops' supervisor does."""
        has_worked = False
        upkeep = self.use_cases.upkeep
        for work in (
            self.use_cases.videos.index_next,
            upkeep.admit_and_plan,
            self.worker.work_once,
            upkeep.finalize_next,
        ):
            try:
                has_worked |= await work()
            except TrireelError:
                has_worked = False
        if not has_worked:
            self.clock.seconds += IDLE_S


@dataclass(slots=True)
class Rig:
    """ports: names of the stores, and "model", whose calls are counted. spoil_archive: wraps it in something worse.

    may_fail_with: codes of errors that end a job; one that failed so is retried, as often as it takes.
    """

    folder: Path
    counter: CallCounter
    ports: Collection[str]
    spoil_archive: Callable[[CandidateArchive], CandidateArchive] = lambda archive: archive
    may_fail_with: frozenset[str] = frozenset()
    clock: Clock = field(default_factory=Clock)
    slots: FakeSlots = field(default_factory=FakeSlots)
    errors: ErrorLog = field(default_factory=ErrorLog)
    video_id: str | None = None
    job_id: str | None = None

    @property
    def settings(self) -> StorageSettings:
        url = f"sqlite:///{self.folder}/{DATABASE}"
        return StorageSettings(database_url=url, data_dir=self.folder, max_upload_bytes=1000)

    @asynccontextmanager
    async def living(self) -> AsyncIterator[Life]:
        """From a start to an end, whichever it is."""
        self.counter.start_anew()
        async with AsyncExitStack() as stack:
            try:
                real = await stack.enter_async_context(open_stores(self.settings))
                stores = self._counted_stores(real)
                await recover(stores)  # type: ignore[arg-type]
            except TrireelError as exc:
                # A server that cannot open what is stored, or clear up after the last one, ends and is started again.
                raise ProcessDied from exc
            use_cases, services = self._joined(stores)
            async with _api_over(services, self.errors) as http:
                yield Life(use_cases, use_cases.worker(), http, self.clock)

    async def carry_out(self) -> None:
        """What a client insists on, and a supervisor brings about, until the job has ended."""
        for _ in range(MOST_LIVES):
            try:
                async with self.living() as life:
                    await self._upload_and_submit(life)
                    await self._work(life)
                    return
            except BaseException as exc:
                if not _is_death(exc):
                    raise
        raise AssertionError(f"the job has not ended in {MOST_LIVES} lives")

    async def evidence(self, name: str, undisturbed: Undisturbed | None = None) -> Evidence:
        """Of a rig that has carried out its job. undisturbed: itself if left out."""
        assert self.job_id is not None
        self.ports = ()
        async with self.living() as life:
            told = await gather_job(life.http, self.job_id)
        out = tuple(f"slot {slot}" for slot in sorted(self.slots.out))
        return Evidence(
            seed=self.counter.strikes_at,
            faults=(PlannedFault(name=name, hits=(self.counter.hit,) if self.counter.hit else ()),),
            accepted=(AcceptedJob(id=self.job_id, undisturbed=undisturbed or Undisturbed(lines=told.lines)),),
            told={self.job_id: told},
            rows=gather_rows(self.settings.database_url),
            files=gather_files(self.folder),
            errors=tuple(self.errors.answers),
            leftovers=Leftovers(orphans=out),
        )

    async def _upload_and_submit(self, life: Life) -> None:
        for _ in range(MOST_STEPS):
            if self.video_id is None:
                answer = await life.http.post("/v1/videos", content=b"VIDEO")
                self.video_id = answer.json()["id"] if answer.is_success else None
            elif self.job_id is None:
                body = {"video_id": self.video_id, "model": "shapes"}
                answer = await life.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "once"})
                self.job_id = answer.json()["id"] if answer.is_success else None
            else:
                return
        raise AssertionError("the client was refused to the end")

    async def _work(self, life: Life) -> None:
        for _ in range(MOST_STEPS):
            answer = await life.http.get(f"/v1/jobs/{self.job_id}")
            if answer.is_success and answer.json()["state"] == SUCCEEDED:
                return
            if answer.is_success and answer.json()["is_terminal"]:
                code = (answer.json()["error"] or {}).get("code")
                assert code in self.may_fail_with, answer.json()
                await life.http.post(f"/v1/jobs/{self.job_id}/retry")
            await life.step()
        raise AssertionError("the job does not end")

    def _counted_stores(self, real: Stores) -> CountedStores:
        def counted(name: str, port: Any) -> Any:
            return CountedPort(port, name, self.counter) if name in self.ports else port

        archive = self.spoil_archive(real.archive)
        files: VideoFiles = real.files
        return CountedStores(
            videos=counted("videos", real.videos),
            jobs=counted("jobs", real.jobs),
            runs=counted("runs", real.runs),
            parts=counted("parts", real.parts),
            events=counted("events", real.events),
            archive=counted("archive", archive),
            files=counted("files", files),
            data_dir=real.data_dir,
        )

    def _joined(self, stores: CountedStores) -> tuple[UseCases, Services]:
        metrics = Metrics(CollectorRegistry())
        model: Model = FakeModel()
        catalogue = FakeTriton([served_model()])
        parts = Parts(
            stores=stores,
            reader=FakeVideoReader(VIDEO, self.slots),
            slots=self.slots,
            model=CountedPort(model, "model", self.counter) if "model" in self.ports else model,
            catalogue=catalogue,
            bus=MemoryEventBus(),
            work=Bell(),
            metrics=metrics,
            utc_now=self.clock.utc_now,
            monotonic_s=self.clock.monotonic_s,
        )
        tuning = Tuning(
            segment_frames=SEGMENT_FRAMES,
            batch_frames=8,
            window_frames=8,
            max_running_jobs=20,
            lease_s=LEASE_S,
            wait_budget_s=WAIT_BUDGET_S,
            retry_pause_s=0.0,
        )
        use_cases = UseCases(parts, tuning)
        services = Services(
            settings=load_settings({}),
            metrics=metrics,
            videos=use_cases.videos,
            jobs=use_cases.jobs,
            results=use_cases.results,
            following=use_cases.following,
            catalogue=catalogue,
            triton=catalogue,
            job_store=stores.jobs,
            event_store=stores.events,
        )
        return use_cases, services


@asynccontextmanager
async def _api_over(services: Services, errors: ErrorLog) -> AsyncIterator[httpx.AsyncClient]:
    async def note(response: httpx.Response) -> None:
        await response.aread()
        errors.note(response)

    transport = httpx.ASGITransport(build_app(services))  # type: ignore[arg-type]  # it says less of its messages
    async with httpx.AsyncClient(
        transport=transport, base_url="http://testserver.local", event_hooks={"response": [note]}
    ) as http:
        yield http


def _is_death(exc: BaseException) -> bool:
    """Also in groups of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_death(each) for each in exc.exceptions)
    return isinstance(exc, ProcessDied)
