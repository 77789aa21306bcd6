"""Between rows and records: the only place where the database's dictionaries are made and read.

Values in JSON columns are written as they are, by the engine's serializer, and read as the types they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from sqlalchemy import RowMapping

from orchestrator.core.contract import ModelCard
from orchestrator.core.records import Event, Failure, Job, Run, Video, Waiting
from orchestrator.core.states import SegmentState
from orchestrator.core.types import (
    IndexReport,
    Ledger,
    ModelVersion,
    RunSpec,
    Sampling,
    SegmentPlan,
    StageSeconds,
    VideoHeader,
    View,
)

Row = Mapping[str, object]  # A statement's parameters by name: columns, and what narrows it.
Value = TypeVar("Value")


def video_row(video: Video) -> Row:
    return {
        "id": video.id,
        "owner": video.owner,
        "sha256": video.sha256,
        "size_bytes": video.size_bytes,
        "file_name": video.file_name,
        "header": video.header,
        "created_at": video.created_at,
        "index_state": video.index_state,
        "report": video.report,
        "index_failure": video.index_failure,
    }


def to_video(row: RowMapping) -> Video:
    return Video(
        id=row["id"],
        owner=row["owner"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        file_name=row["file_name"],
        header=msgspec.convert(row["header"], VideoHeader),
        created_at=row["created_at"],
        index_state=row["index_state"],
        report=_optional(row["report"], IndexReport),
        index_failure=_optional(row["index_failure"], Failure),
    )


def run_row(run: Run) -> Row:
    """All columns of a run; the card stands in `models`."""
    return {
        "id": run.id,
        "key": run.spec.key(),
        "video_sha256": run.spec.video_sha256,
        "model_name": run.spec.model.name,
        "model_version": run.spec.model.version,
        "model_digest": run.spec.model.digest,
        "sampling": run.spec.sampling,
        "created_at": run.created_at,
        **run_progress_row(run),
    }


def run_progress_row(run: Run) -> Row:
    """The columns of a run that change during its life."""
    return {
        "video_id": run.video_id,
        "state": run.state,
        "frames_total": run.frames_total,
        "segments_total": run.segments_total,
        "segments_done": run.segments_done,
        "ledger": run.ledger,
        "seconds": run.seconds,
        "warnings": run.warnings,
        "notes": run.notes,
        "virtual_time": run.virtual_time,
        "waiting": run.waiting,
        "failure": run.failure,
        "finished_at": run.finished_at,
    }


def to_run(row: RowMapping) -> Run:
    """From a row of `runs` joined with its model's `card`."""
    model = ModelVersion(row["model_name"], row["model_version"], row["model_digest"])
    return Run(
        id=row["id"],
        spec=RunSpec(row["video_sha256"], model, msgspec.convert(row["sampling"], Sampling)),
        card=ModelCard.from_json(row["card"]),
        video_id=row["video_id"],
        state=row["state"],
        created_at=row["created_at"],
        frames_total=row["frames_total"],
        segments_total=row["segments_total"],
        segments_done=row["segments_done"],
        ledger=msgspec.convert(row["ledger"], Ledger),
        seconds=msgspec.convert(row["seconds"], StageSeconds),
        warnings=tuple(row["warnings"]),
        notes=tuple(row["notes"]),
        virtual_time=row["virtual_time"],
        waiting=to_waiting(row["waiting"]),
        failure=_optional(row["failure"], Failure),
        finished_at=row["finished_at"],
    )


def to_waiting(stored: Any) -> Waiting | None:
    return _optional(stored, Waiting)


def job_row(job: Job) -> Row:
    return {
        "id": job.id,
        "owner": job.owner,
        "run_id": job.run_id,
        "video_id": job.video_id,
        "state": job.state,
        "view": job.view,
        "priority": job.priority,
        "timeout_s": job.timeout_s,
        "tags": job.tags,
        "created_at": job.created_at,
        "attempt": job.attempt,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "failure": job.failure,
    }


def to_job(row: RowMapping) -> Job:
    return Job(
        id=row["id"],
        owner=row["owner"],
        run_id=row["run_id"],
        video_id=row["video_id"],
        state=row["state"],
        view=msgspec.convert(row["view"], View),
        priority=row["priority"],
        timeout_s=row["timeout_s"],
        tags=tuple(row["tags"]),
        created_at=row["created_at"],
        attempt=row["attempt"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        failure=_optional(row["failure"], Failure),
    )


def to_event(row: RowMapping) -> Event:
    return Event(
        id=row["id"],
        kind=row["kind"],
        job_id=row["job_id"],
        run_id=row["run_id"],
        body=row["body"],
        created_at=row["created_at"],
    )


def open_segment_row(run_id: str, plan: SegmentPlan) -> Row:
    return {
        "run_id": run_id,
        "number": plan.number,
        "first_sample": plan.first_sample,
        "last_sample": plan.last_sample,
        "entry_pts": plan.entry_pts,
        "state": SegmentState.OPEN,
        "attempt": 0,
        "strikes": 0,
    }


def to_plan(row: RowMapping) -> SegmentPlan:
    return SegmentPlan(row["number"], row["first_sample"], row["last_sample"], row["entry_pts"])


def _optional(stored: Any, kind: type[Value]) -> Value | None:
    return None if stored is None else msgspec.convert(stored, kind)
