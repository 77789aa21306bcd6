"""A whole process on in-memory parts, stepped by hand: what `bootstrap` joins, without a database, Triton or video."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry

from orchestrator.composition import Parts, Tuning, UseCases
from orchestrator.events.memory import MemoryEventBus
from orchestrator.following import Following, StreamEvent
from orchestrator.jobs import JobRequest, Jobs, JobSnapshot
from orchestrator.ports import EventBus
from orchestrator.results import Results
from orchestrator.scheduling.local import Bell
from orchestrator.telemetry import Metrics
from orchestrator.testing.fake_model import FakeModel, FakeModelCatalogue, served_model
from orchestrator.testing.fake_reader import FakeSlots, FakeVideoReader, GeneratedVideo
from orchestrator.testing.memory_stores import MemoryStores, memory_stores
from orchestrator.upkeep import Upkeep
from orchestrator.videos import Videos
from orchestrator.working import Worker

SEGMENT_FRAMES = 20


@dataclass(slots=True)
class Clock:
    """Moves only when told to: by hand, or a little with every look at it."""

    seconds: float = 0.0
    ticks_a_read: float = 0.0

    def monotonic_s(self) -> float:
        self.seconds += self.ticks_a_read
        return self.seconds

    def utc_now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


@dataclass(slots=True)
class Process:
    """video: what every uploaded file turns out to be."""

    video: GeneratedVideo = field(default_factory=GeneratedVideo)
    model: FakeModel = field(default_factory=FakeModel)
    max_running_jobs: int = 20
    retry_pause_s: float = 0.0
    wait_budget_s: float = 3600.0
    clock: Clock = field(default_factory=Clock)
    slots: FakeSlots = field(default_factory=FakeSlots)
    catalogue: FakeModelCatalogue = field(default_factory=lambda: FakeModelCatalogue([served_model()]))
    stores: MemoryStores = field(default_factory=memory_stores)
    bus: EventBus = field(default_factory=MemoryEventBus)
    reader: FakeVideoReader = field(init=False)
    metrics: Metrics = field(init=False)
    use_cases: UseCases = field(init=False)
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.reader = FakeVideoReader(self.video, self.slots)
        parts = Parts(
            stores=self.stores,
            reader=self.reader,
            slots=self.slots,
            model=self.model,
            catalogue=self.catalogue,
            bus=self.bus,
            work=Bell(),
            metrics=self.metrics,
            utc_now=self.clock.utc_now,
            monotonic_s=self.clock.monotonic_s,
        )
        tuning = Tuning(
            segment_frames=SEGMENT_FRAMES,
            batch_frames=4,
            window_frames=8,
            max_running_jobs=self.max_running_jobs,
            lease_s=60.0,
            wait_budget_s=self.wait_budget_s,
            wanted_poll_s=0.001,
            retry_pause_s=self.retry_pause_s,
        )
        self.use_cases = UseCases(parts, tuning)
        self.worker = self.use_cases.worker()

    @property
    def videos(self) -> Videos:
        return self.use_cases.videos

    @property
    def jobs(self) -> Jobs:
        return self.use_cases.jobs

    @property
    def results(self) -> Results:
        return self.use_cases.results

    @property
    def following(self) -> Following:
        return self.use_cases.following

    @property
    def upkeep(self) -> Upkeep:
        return self.use_cases.upkeep

    async def upload(self, content: bytes = b"video") -> str:
        """Receive a video and index it; its id."""

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        video = await self.videos.receive(chunks(), file_name="clip.mp4", owner="")
        while await self.videos.index_next():
            pass
        return video.id

    async def upload_deadly(self) -> str:
        """A video that kills whoever indexes it, not indexed yet; its id."""

        async def chunks() -> AsyncIterator[bytes]:
            yield b"deadly"

        video = await self.videos.receive(chunks(), file_name="deadly.mp4", owner="")
        self.reader.deadly_paths.add(self.stores.files.content_path(video.id))
        return video.id

    async def submit(self, video_id: str | None = None, **request: object) -> JobSnapshot:
        """Submit a job on a video, newly uploaded unless given."""
        video_id = video_id or await self.upload()
        fields: dict[str, object] = {"video_id": video_id, "model": "shapes", **request}
        return await self.jobs.submit(JobRequest(**fields), owner="")  # type: ignore[arg-type]  # as the caller names them

    async def plan(self) -> None:
        while await self.upkeep.admit_and_plan():
            pass

    async def work_until_idle(self) -> None:
        """Plan, infer and finalize all there is."""
        while True:
            await self.plan()
            worked = await self.worker.work_once()
            finalized = await self.upkeep.finalize_next()
            if not worked and not finalized:
                return

    async def events(self, job_id: str, *, last_id: int = 0) -> list[StreamEvent]:
        """All that a follower of a finished job is told, progress included."""
        return [event async for event in self.following.job(job_id, last_id=last_id) if event is not None]
