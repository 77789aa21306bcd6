"""The typed client of the REST API, with and without an event loop; also importable as `trireel`.

with Client() as client:
    video = client.upload("clip.mp4")
    job = client.submit(SubmitJob(video_id=video.id, model="yolo11n"))
    for event in client.follow(job.id):
        print(event.kind, event.body)
    for frame in client.frames(job.id, view=ViewQuery(conf=0.4)):
        print(frame.frame_index, len(frame.detections))
"""

from __future__ import annotations

from orchestrator.client.answers import (
    BucketAnswer,
    DetectionAnswer,
    DoneBody,
    FailureAnswer,
    FrameAnswer,
    JobAnswer,
    JobEvent,
    LedgerAnswer,
    LimitsAnswer,
    ModelAnswer,
    ModelVersionAnswer,
    PageAnswer,
    ParamsAnswer,
    ProgressAnswer,
    ProgressBody,
    ReadinessAnswer,
    SegmentBody,
    StateBody,
    TimelineAnswer,
    TimingsAnswer,
    VideoAnswer,
    ViewAnswer,
)
from orchestrator.client.async_client import AsyncClient
from orchestrator.client.calls import FrameRange, SubmitJob, ViewQuery
from orchestrator.client.exchange import DEFAULT_URL
from orchestrator.client.sync_client import Client
from orchestrator.client.transfer import FrameLines
from orchestrator.client_errors import AnswerInvalidError, ApiError, ConnectionLostError, ServerUnreachableError
from orchestrator.errors import SettingsError, TrireelError

__all__ = [
    "DEFAULT_URL",
    "AnswerInvalidError",
    "ApiError",
    "AsyncClient",
    "BucketAnswer",
    "Client",
    "ConnectionLostError",
    "DetectionAnswer",
    "DoneBody",
    "FailureAnswer",
    "FrameAnswer",
    "FrameLines",
    "FrameRange",
    "JobAnswer",
    "JobEvent",
    "LedgerAnswer",
    "LimitsAnswer",
    "ModelAnswer",
    "ModelVersionAnswer",
    "PageAnswer",
    "ParamsAnswer",
    "ProgressAnswer",
    "ProgressBody",
    "ReadinessAnswer",
    "SegmentBody",
    "ServerUnreachableError",
    "SettingsError",
    "StateBody",
    "SubmitJob",
    "TimelineAnswer",
    "TimingsAnswer",
    "TrireelError",
    "VideoAnswer",
    "ViewAnswer",
    "ViewQuery",
]
