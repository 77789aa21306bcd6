"""Detections and progress in the words of the API, as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.core.records import JsonValue, Progress
from orchestrator.core.types import Candidates


def detection_objects(detections: Candidates, class_names: Sequence[str]) -> list[JsonValue]:
    """One object a detection; boxes in pixels of the upright source frame, rounded to 0.01, confidences to 0.00001."""
    columns = zip(
        detections.frame_index.tolist(),
        detections.pts_ms.tolist(),
        detections.class_ids.tolist(),
        detections.confidence.tolist(),
        detections.boxes_xyxy.tolist(),
        strict=True,
    )
    return [
        {
            "frame_index": frame_index,
            "pts_ms": round(pts_ms, 3),
            "class_id": class_id,
            "class_name": class_names[class_id],
            "confidence": round(confidence, 5),
            "xyxy": [round(side, 2) for side in xyxy],
        }
        for frame_index, pts_ms, class_id, confidence, xyxy in columns
    ]


def progress_object(progress: Progress) -> dict[str, JsonValue]:
    """The job's `progress`; rounded down, so that 100 is never told too early."""
    return {
        "percent": percent_of(progress.frames_done, progress.frames_total),
        "frames_done": progress.frames_done,
        "frames_total": progress.frames_total,
        "fps": _rounded(progress.fps, 1),
        "realtime_factor": _rounded(progress.realtime_factor, 2),
        "eta_s": _rounded(progress.eta_s, 1),
    }


def percent_of(frames_done: int, frames_total: int | None) -> float | None:
    """0.0 to 100.0 in steps of 0.1, None while the total is unknown."""
    if not frames_total:
        return None
    return math.floor(1000 * frames_done / frames_total) / 10


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
