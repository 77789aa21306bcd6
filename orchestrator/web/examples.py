"""What the main calls look like, for the OpenAPI document: one video, one job on it, and what it tells.

Values of the very types that are sent, so that an example cannot show a member that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from orchestrator.errors import ThresholdNotStoredError
from orchestrator.following import StreamEvent
from orchestrator.formats.json_text import FailedFrame, ResultDocument
from orchestrator.formats.result_head import ModelName, ResultVideo, SamplingAnswer, ViewAnswer
from orchestrator.formats.rows import Detection
from orchestrator.web.error_map import Problem
from orchestrator.web.job_schemas import (
    JOB_ID,
    JobAnswer,
    JobParams,
    LedgerAnswer,
    ProgressAnswer,
    SubmitJob,
    TimingsAnswer,
    ViewBody,
)
from orchestrator.web.schemas import SHA256, VIDEO_ID, VideoAnswer

UPLOADED_AT: Final = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
SUBMITTED_AT: Final = datetime(2026, 1, 31, 12, 1, tzinfo=UTC)
CLASS_NAMES: Final = ["person", "bicycle", "car"]

SUBMIT: Final = SubmitJob(
    video_id=VIDEO_ID, model="yolo11n", every_nth=2, view=ViewBody(conf=0.4, classes=["car"]), tags=["night"]
)
VIDEO: Final = VideoAnswer(
    id=VIDEO_ID,
    file_name="crossing.mp4",
    sha256=SHA256,
    size_bytes=1_048_576,
    container="mov,mp4,m4a,3gp,3g2,mj2",
    codec="h264",
    width_px=1920,
    height_px=1080,
    rotation_deg=0,
    is_mirrored=False,
    duration_s=10.0,
    frame_count=300,
    fps=30.0,
    is_vfr=False,
    index_state="ready",
    warnings=[],
    notes=[],
    error=None,
    created_at=UPLOADED_AT,
)
MODEL: Final = ModelName(
    name="yolo11n", version=1, digest="9f64a747e1b97f131fabb6b447296c9b6f0201e79fb3c5356e6c77e89b6a806a"
)
VIEW: Final = ViewAnswer(conf=0.4, iou=0.7, classes=["car"], max_det=300)
JOB: Final = JobAnswer(
    id=JOB_ID,
    state="running",
    is_terminal=False,
    attempt=1,
    stage="inferring",
    state_reason=None,
    queue_position=None,
    video=VIDEO,
    model=MODEL,
    params=JobParams(
        every_nth=2, fps=None, start_s=None, end_s=None, view=VIEW, priority=50, timeout_s=None, tags=["night"]
    ),
    progress=ProgressAnswer(percent=42.6, frames_done=64, frames_total=150, fps=31.4, realtime_factor=2.09, eta_s=2.7),
    ledger=LedgerAnswer(planned=150, inferred=63, failed=1, skipped=150, reasons={"decode_error": 1}),
    timings_s=TimingsAnswer(queued=0.02, indexing=0.4, decoding=0.9, waiting=0.2, inferring=3.8, writing=0.05),
    error=None,
    warnings=[],
    notes=[],
    created_at=SUBMITTED_AT,
    started_at=SUBMITTED_AT,
    finished_at=None,
)
RESULT: Final = ResultDocument(
    job_id=JOB_ID,
    state="running",
    model=MODEL,
    video=ResultVideo(
        id=VIDEO_ID,
        file_name=VIDEO.file_name,
        sha256=SHA256,
        width_px=1920,
        height_px=1080,
        frame_count=300,
        fps=30.0,
    ),
    sampling=SamplingAnswer(every_nth=2, fps=None, start_s=None, end_s=None),
    view=VIEW,
    is_second_suppression=False,
    class_names=CLASS_NAMES,
    complete_through_frame=126,
    is_complete=False,
    warnings=[],
    notes=[],
    detections=[Detection(120, 4000.0, 2, "car", 0.91234, (101.5, 40.25, 310.0, 222.75))],
    frame_count=64,
    failed_frames=[FailedFrame(frame_index=6, pts_ms=200.0, reason="decode_error")],
)
PROBLEM: Final = Problem(
    type=f"urn:trireel:error:{ThresholdNotStoredError.code}",
    title="Threshold not stored",
    status=422,
    detail="boxes under confidence 0.05 are not stored; ask for conf 0.05 or more, "
    "or publish a version with a lower floor",
    code=ThresholdNotStoredError.code,
    retryable=False,
    instance=f"/v1/jobs/{JOB_ID}/detections",
    job_id=JOB_ID,
)
# Litestar leaves members out that are null.
EXAMPLES: Final[Mapping[type, Any]] = {
    type(value): msgspec.to_builtins(value) for value in (SUBMIT, VIDEO, JOB, RESULT, PROBLEM)
}

EVENTS: Final = (
    StreamEvent(kind="state", id=40, body={"job_id": JOB_ID, "state": "running", "attempt": 1}),
    StreamEvent(
        kind="segment",
        id=41,
        body={
            "job_id": JOB_ID,
            "segment": 0,
            "first_frame": 0,
            "last_frame": 126,
            "frames": 64,
            "inferred": 63,
            "failed": 1,
            "candidates": 310,
            "frames_done": 64,
            "frames_total": 150,
        },
    ),
    StreamEvent(
        kind="progress", id=None, body={"job_id": JOB_ID, **msgspec.to_builtins(JOB.progress), "stage": "inferring"}
    ),
    StreamEvent(
        kind="done",
        id=47,
        body={"job_id": JOB_ID, "state": "succeeded", "error": None, "frames_done": 150, "frames_total": 150},
    ),
)
