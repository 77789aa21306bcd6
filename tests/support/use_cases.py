"""The use cases in memory, for tests of the web layer: they keep state, check what they are given and refuse it.

`tests/support/world.py` has the state they share.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TypeVar, cast

import numpy as np
from prometheus_client import CollectorRegistry

from orchestrator.bootstrap import Services
from orchestrator.core.records import Job, JsonValue, Progress, Run, Video
from orchestrator.core.rendering import detection_objects
from orchestrator.core.states import JobState, RunState
from orchestrator.core.types import (
    RunSpec,
    ServedModel,
    StageSeconds,
    View,
)
from orchestrator.core.views import apply_view, checked_view, class_ids_of, suppresses_again
from orchestrator.errors import (
    CursorInvalidError,
    ModelNotFoundError,
    ThresholdOutOfRangeError,
    TritonUnavailableError,
    UploadEmptyError,
    UploadTooLargeError,
    VideoInUseError,
    VideoUnreadableError,
)
from orchestrator.following import StreamEvent
from orchestrator.jobs import JobRequest, JobSnapshot, parse_model
from orchestrator.ports import ModelStatus, Page
from orchestrator.results import DetectionBlock, ResultHeader, Timeline, ViewRequest
from orchestrator.settings import Settings, load_settings
from orchestrator.telemetry import Metrics
from tests.support.world import BEGINNING, CARD, CLASS_NAMES, HEADER, MODEL, World, status_of_model

Item = TypeVar("Item")


@dataclass(slots=True)
class VideosInMemory:
    world: World

    async def receive(self, chunks: AsyncIterator[bytes], *, file_name: str, owner: str) -> Video:
        with self.world.upload():
            content = b""
            async for chunk in chunks:
                content += chunk
                if len(content) > self.world.max_upload_bytes:
                    raise UploadTooLargeError(f"over {self.world.max_upload_bytes} bytes")
        if not content:
            raise UploadEmptyError("the upload is empty")
        if not content.startswith(b"VIDEO"):
            raise VideoUnreadableError("no demuxer opens this file; upload a video")
        number = len(self.world.videos)
        video = Video(
            id=f"video{number}",
            owner=owner,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            file_name=file_name,
            header=HEADER,
            created_at=BEGINNING + timedelta(seconds=number),
        )
        self.world.videos[video.id] = video
        self.world.contents[video.id] = content
        return video

    async def get(self, video_id: str) -> Video:
        return self.world.video(video_id)

    async def page(self, *, limit: int, cursor: str | None) -> Page[Video]:
        return page_of([*self.world.videos.values()][::-1], limit, cursor)

    async def remove(self, video_id: str) -> None:
        self.world.video(video_id)
        if any(shown.video.id == video_id for shown in self.world.jobs.values()):
            raise VideoInUseError(f"a job needs video {video_id}; delete the job first")
        del self.world.videos[video_id]


@dataclass(slots=True)
class JobsInMemory:
    world: World

    async def submit(self, request: JobRequest, *, owner: str) -> JobSnapshot:
        video = self.world.video(request.video_id)
        name, version = parse_model(request.model)
        if name not in self.world.models or version not in (None, 1):
            raise ModelNotFoundError(f"there is no model {request.model}")
        if not self.world.is_triton_up:
            raise TritonUnavailableError("Triton does not answer; try again")
        class_ids = None if request.classes is None else class_ids_of(request.classes, CARD)
        view = View(
            min_confidence=request.min_confidence,
            iou=CARD.iou if request.iou is None else request.iou,
            class_ids=class_ids,
            max_det=request.max_det,
        )
        number = len(self.world.jobs)
        run = Run(
            id=f"run{number}",
            spec=RunSpec(video.sha256, MODEL.version, request.sampling),
            card=CARD,
            video_id=video.id,
            state=RunState.WAITING,
            created_at=BEGINNING,
            seconds=StageSeconds(decoding=1.23456),
        )
        job = Job(
            id=f"job{number}",
            owner=owner,
            run_id=run.id,
            video_id=video.id,
            state=JobState.QUEUED,
            view=checked_view(view, CARD),
            priority=request.priority,
            timeout_s=request.timeout_s,
            tags=request.tags,
            created_at=BEGINNING + timedelta(seconds=number),
        )
        progress = Progress(
            run_id=run.id, frames_done=0, frames_total=None, fps=None, realtime_factor=None, eta_s=None, stage="queued"
        )
        shown = JobSnapshot(job=job, run=run, video=video, progress=progress, stage="queued", queue_position=1)
        self.world.jobs[job.id] = shown
        await self.world.tell(job.id, "state", {"state": "queued"})
        return shown

    async def snapshot(self, job_id: str) -> JobSnapshot:
        return self.world.job(job_id)

    async def page(
        self, *, limit: int, cursor: str | None, states: Collection[JobState] = (), model: str | None = None
    ) -> Page[JobSnapshot]:
        shown = [
            snapshot
            for snapshot in reversed(self.world.jobs.values())
            if (not states or snapshot.job.state in states) and (model in (None, snapshot.run.spec.model.name))
        ]
        return page_of(shown, limit, cursor)

    async def cancel(self, job_id: str) -> JobSnapshot:
        if not self.world.job(job_id).job.state.is_terminal:
            self.world.put(job_id, JobState.CANCELLED)
            await self.world.tell(job_id, "done", {"state": "cancelled"})
        return self.world.job(job_id)

    async def remove(self, job_id: str) -> None:
        self.world.job(job_id)
        del self.world.jobs[job_id]


@dataclass(slots=True)
class ResultsInMemory:
    world: World

    async def open(
        self,
        job_id: str,
        request: ViewRequest,
        *,
        first_frame: int = 0,
        last_frame: int | None = None,
        follow: bool = False,
    ) -> tuple[ResultHeader, AsyncIterator[DetectionBlock]]:
        header = self._header(job_id, request)
        last = 3 if last_frame is None else last_frame
        if last < first_frame or first_frame < 0:
            raise ThresholdOutOfRangeError("to_frame must not come before from_frame")
        return header, self._blocks(header, first_frame, last, follow=follow)

    async def timeline(self, job_id: str, request: ViewRequest, *, bucket_s: float) -> tuple[ResultHeader, Timeline]:
        header = self._header(job_id, request)
        if not bucket_s > 0:
            raise ThresholdOutOfRangeError(f"bucket_s must be over 0, not {bucket_s}")
        shown = apply_view(self.world.candidates, header.view, CARD)
        counts = np.bincount(shown.class_ids, minlength=len(CLASS_NAMES)).astype(np.int64)[None]
        return header, Timeline(
            bucket_s=bucket_s,
            class_ids=(0, 1, 2),
            class_names=CLASS_NAMES,
            starts_s=np.zeros(1),
            frames=np.array([4]),
            counts=counts,
        )

    def _header(self, job_id: str, request: ViewRequest) -> ResultHeader:
        shown = self.world.job(job_id)
        own = shown.job.view
        view = View(
            min_confidence=own.min_confidence if request.min_confidence is None else request.min_confidence,
            iou=own.iou if request.iou is None else request.iou,
            class_ids=own.class_ids if request.classes is None else class_ids_of(request.classes, CARD),
            max_det=own.max_det if request.max_det is None else request.max_det,
        )
        return ResultHeader(
            job=shown.job,
            run=shown.run,
            video=shown.video,
            view=checked_view(view, CARD),
            class_names=CLASS_NAMES,
            is_second_suppression=suppresses_again(view, CARD),
            complete_through_frame=3,
            is_complete=shown.job.state is JobState.SUCCEEDED,
        )

    async def _blocks(
        self, header: ResultHeader, first: int, last: int, *, follow: bool
    ) -> AsyncIterator[DetectionBlock]:
        """Two frames a block; with `follow`, the second block comes only once the job has ended."""
        shown = apply_view(self.world.candidates, header.view, CARD)
        with self.world.stream():
            for begin in (0, 2):
                if begin and follow:
                    async with self.world.moved:
                        await self.world.moved.wait_for(lambda: self.world.job(header.job.id).job.state.is_terminal)
                frames = np.array([frame for frame in (begin, begin + 1) if first <= frame <= last], np.int32)
                yield DetectionBlock(
                    frame_index=frames,
                    pts_ms=frames.astype(np.float64) * 40,
                    failed={1: "decode_error"} if 1 in frames else {},
                    detections=shown.take(np.isin(shown.frame_index, frames)),
                )


@dataclass(slots=True)
class FollowingInMemory:
    world: World
    quiet_s: float = 15.0

    async def is_over(self, job_id: str, *, last_id: int) -> bool:
        is_terminal = self.world.job(job_id).job.state.is_terminal
        return is_terminal and not any((event.id or 0) > last_id for event in self.world.events[job_id])

    async def job(
        self, job_id: str, *, last_id: int = 0, with_boxes: bool = False
    ) -> AsyncIterator[StreamEvent | None]:
        self.world.job(job_id)
        boxes = detection_objects(self.world.candidates, CLASS_NAMES)
        async for event in self._events([job_id], last_id):
            if event is not None and with_boxes and event.kind == "segment":
                event = replace(event, body={**event.body, "detections": boxes})
            yield event
            if event is not None and event.kind == "done":
                return

    def all_jobs(self, *, last_id: int | None = None) -> AsyncIterator[StreamEvent | None]:
        seen = sum(map(len, self.world.events.values())) if last_id is None else last_id
        return self._events(None, seen)

    def stop(self) -> None:
        self.world.is_stopping = True
        asyncio.get_running_loop().create_task(self._wake())

    async def _wake(self) -> None:
        async with self.world.moved:
            self.world.moved.notify_all()

    def _new(self, job_ids: Sequence[str] | None, last_id: int) -> list[StreamEvent]:
        logs = self.world.events if job_ids is None else {job_id: self.world.events[job_id] for job_id in job_ids}
        return sorted((e for log in logs.values() for e in log if (e.id or 0) > last_id), key=lambda e: e.id or 0)

    def _is_news(self, job_ids: Sequence[str] | None, last_id: int) -> bool:
        return self.world.is_stopping or bool(self._new(job_ids, last_id))

    async def _events(self, job_ids: Sequence[str] | None, last_id: int) -> AsyncIterator[StreamEvent | None]:
        with self.world.stream():
            while not self.world.is_stopping:
                for event in self._new(job_ids, last_id):
                    last_id = event.id or last_id
                    yield event
                async with self.world.moved:
                    try:
                        async with asyncio.timeout(self.quiet_s):
                            await self.world.moved.wait_for(partial(self._is_news, job_ids, last_id))
                    except TimeoutError:
                        yield None


@dataclass(slots=True)
class CatalogueInMemory:
    world: World

    async def find(self, name: str, version: int | None = None) -> ServedModel:
        if name not in self.world.models:
            raise ModelNotFoundError(f"there is no model {name}")
        return MODEL

    async def list(self) -> Sequence[ModelStatus]:
        return [status for statuses in self.world.models.values() for status in statuses]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    is_ready: bool
    reasons: tuple[str, ...] = ()
    transport: str = "shm"
    transport_reason: str = "Triton is on this machine"
    triton_url: str = "127.0.0.1:8001"
    triton_metrics_url: str = "http://127.0.0.1:8002/metrics"


@dataclass(slots=True, kw_only=True)
class ServicesInMemory:
    """Has what `Services` has. published: models that a `load` makes known."""

    world: World
    settings: Settings
    metrics: Metrics
    videos: VideosInMemory
    jobs: JobsInMemory
    results: ResultsInMemory
    following: FollowingInMemory
    catalogue: CatalogueInMemory
    published: set[str] = field(default_factory=lambda: {"fresh"})

    async def readiness(self) -> Readiness:
        if self.world.is_triton_up:
            return Readiness(is_ready=True)
        return Readiness(is_ready=False, reasons=("Triton does not answer",))

    async def load_model(self, name: str) -> None:
        if name not in self.published:
            raise ModelNotFoundError(f"no model {name} is published")
        self.world.models[name] = [status_of_model(name)]

    async def certificate(self, name: str, version: int) -> Mapping[str, JsonValue] | None:
        return {"verdict": "passed", "boxes": 812}

    async def refresh_metrics(self) -> None:
        self.metrics.queued_jobs.set(sum(s.job.state is JobState.QUEUED for s in self.world.jobs.values()))


def services_in_memory(world: World, settings: Settings | None = None, *, quiet_s: float = 15.0) -> Services:
    """All stand-ins over one world, with the model `yolo11n` served."""
    world.models.setdefault("yolo11n", [status_of_model("yolo11n")])
    stand_ins = ServicesInMemory(
        world=world,
        settings=settings or load_settings({"TRIREEL_MAX_UPLOAD_BYTES": str(world.max_upload_bytes)}),
        metrics=Metrics(CollectorRegistry()),
        videos=VideosInMemory(world),
        jobs=JobsInMemory(world),
        results=ResultsInMemory(world),
        following=FollowingInMemory(world, quiet_s),
        catalogue=CatalogueInMemory(world),
    )
    return cast(Services, stand_ins)


def page_of(items: Sequence[Item], limit: int, cursor: str | None) -> Page[Item]:
    """Cursors are plain offsets here. Raises CursorInvalidError."""
    if cursor is not None and not cursor.isdigit():
        raise CursorInvalidError("this cursor is not one of ours; begin without one")
    begin = int(cursor or 0)
    rest = items[begin + limit :]
    return Page(items=items[begin : begin + limit], next_cursor=str(begin + limit) if rest else None)
