"""What the in-memory use cases share: the state a test looks at and moves, and the values it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from orchestrator.core.contract import ModelCard
from orchestrator.core.records import Failure, JsonValue, Video
from orchestrator.core.states import IndexState, JobState, RunState
from orchestrator.core.types import Candidates, IndexReport, Ledger, ModelVersion, ServedModel, VideoHeader
from orchestrator.errors import JobNotFoundError, VideoNotFoundError
from orchestrator.following import StreamEvent
from orchestrator.jobs import JobSnapshot
from orchestrator.ports import ModelStatus

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
CLASS_NAMES = ("person", "car", '=HYPERLINK("x")')
CARD = ModelCard(
    class_names=CLASS_NAMES,
    stride=32,
    imgsz=640,
    floor=0.05,
    iou=0.7,
    precision="fp32",
    digest="d" * 64,
    weights_sha256="e" * 64,
    certificate="passed",
)
MODEL = ServedModel(version=ModelVersion("yolo11n", 1, CARD.digest), card=CARD, max_batch=8, instances=1)
HEADER = VideoHeader(
    container="mp4",
    codec="h264",
    width_px=640,
    height_px=360,
    rotation_deg=0,
    is_mirrored=False,
    duration_s_hint=2.0,
    fps_hint=25.0,
    notes=("hdr",),
)
REPORT = IndexReport(frame_count=4, duration_s=0.16, fps=25.0, is_vfr=False)


def four_frames() -> Candidates:
    """Frames 0..3: a car and a person in frame 0, nothing in 1, a weak car in 2, an oddly named thing in 3."""
    return Candidates(
        frame_index=np.array([0, 0, 2, 3], np.int32),
        pts_ms=np.array([0.0, 0.0, 80.0, 120.0004]),
        class_ids=np.array([1, 0, 1, 2], np.int16),
        confidence=np.array([0.912345678, 0.5, 0.1, 0.3], np.float32),
        boxes_xyxy=np.array([[1.234, 2, 3, 4.5], [10, 20, 30, 40], [5, 6, 7, 8], [0, 0, 640, 360]], np.float32),
    )


@dataclass(slots=True)
class World:
    """What the stand-ins share. open_streams: followers and readers that are not closed yet."""

    max_upload_bytes: int = 10_000
    videos: dict[str, Video] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, JobSnapshot] = field(default_factory=dict)
    events: dict[str, list[StreamEvent]] = field(default_factory=dict)
    candidates: Candidates = field(default_factory=four_frames)
    models: dict[str, list[ModelStatus]] = field(default_factory=dict)
    is_triton_up: bool = True
    open_uploads: int = 0
    open_streams: int = 0
    counted: asyncio.Event = field(default_factory=asyncio.Event)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    is_stopping: bool = False

    @contextmanager
    def upload(self) -> Iterator[None]:
        self.open_uploads += 1
        self.counted.set()
        try:
            yield
        finally:
            self.open_uploads -= 1
            self.counted.set()

    @contextmanager
    def stream(self) -> Iterator[None]:
        self.open_streams += 1
        self.counted.set()
        try:
            yield
        finally:
            self.open_streams -= 1
            self.counted.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for uploads or streams to be opened or closed until something is so."""
        while not is_so():
            self.counted.clear()
            await self.counted.wait()

    def video(self, video_id: str) -> Video:
        if video_id not in self.videos:
            raise VideoNotFoundError(f"there is no video {video_id}")
        return self.videos[video_id]

    def job(self, job_id: str) -> JobSnapshot:
        if job_id not in self.jobs:
            raise JobNotFoundError(f"there is no job {job_id}")
        return self.jobs[job_id]

    def put(self, job_id: str, state: JobState, *, failure: Failure | None = None, frames_done: int = 0) -> None:
        """Move a job, its run and its progress."""
        shown = self.job(job_id)
        at = shown.job.created_at + timedelta(seconds=1)
        run_state = RunState.SUCCEEDED if state is JobState.SUCCEEDED else RunState.OPEN
        run = replace(shown.run, state=run_state, ledger=Ledger(planned=4, inferred=frames_done, skipped=0))
        self.jobs[job_id] = replace(
            shown,
            job=replace(shown.job, state=state, failure=failure, started_at=at),
            run=run,
            progress=replace(shown.progress, frames_done=frames_done, frames_total=4),
            stage="done" if state.is_terminal else "inferring",
            queue_position=None,
        )

    async def tell(self, job_id: str, kind: str, body: Mapping[str, JsonValue]) -> None:
        """A durable event."""
        async with self.moved:
            log = self.events.setdefault(job_id, [])
            log.append(StreamEvent(kind=kind, id=sum(map(len, self.events.values())) + 1, body=body))
            self.moved.notify_all()

    async def finish(self, job_id: str) -> None:
        self.put(job_id, JobState.SUCCEEDED, frames_done=4)
        await self.tell(job_id, "done", {"state": "succeeded"})


def status_of_model(name: str) -> ModelStatus:
    return ModelStatus(name=name, version=1, is_ready=True, reason="", model=MODEL)


def indexed(video: Video) -> Video:
    """The same video once its index is made."""
    return replace(video, index_state=IndexState.READY, report=REPORT)
