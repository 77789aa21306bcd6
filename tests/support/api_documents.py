"""The API's documents as the fake server answers them; a test compares their members with the real schemas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]
MODEL: Final = "shapes"
CREATED_AT: Final = "2026-01-02T03:04:05Z"
CLASS_NAMES: Final = ["car", "person"]
FRAMES: Final = 4
LIMITS: Final[Json] = {
    "max_upload_bytes": 1000,
    "max_duration_s": 86400.0,
    "max_frame_pixels": 33_177_600,
    "max_fps": 240.0,
    "max_frames": 10_000_000,
    "decoder_memory_bytes": 4 * 1024**3,
    "stall_timeout_s": 300.0,
    "max_running_jobs": 20,
    "max_detections_per_frame": 300,
    "max_tags": 50,
    "max_tag_length": 100,
    "max_page_items": 200,
    "max_body_bytes": 1_000_000,
}


@dataclass(frozen=True, slots=True)
class Log:
    """One event of a job; id: None for a snapshot, which is not replayed."""

    kind: str
    id: int | None
    body: Json


def video_json(video_id: str, file_name: str, size_bytes: int) -> Json:
    return {
        "id": video_id,
        "file_name": file_name,
        "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "size_bytes": size_bytes,
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "codec": "h264",
        "width_px": 768,
        "height_px": 432,
        "rotation_deg": 0,
        "is_mirrored": False,
        "duration_s": 0.4,
        "frame_count": FRAMES,
        "fps": 10.0,
        "is_vfr": False,
        "index_state": "ready",
        "warnings": [],
        "notes": [],
        "error": None,
        "created_at": CREATED_AT,
    }


def job_json(job_id: str, video: Json, state: str) -> Json:
    return {
        "id": job_id,
        "state": state,
        "is_terminal": state in ("succeeded", "failed", "cancelled"),
        "attempt": 1,
        "stage": state,
        "state_reason": None,
        "queue_position": 1 if state == "queued" else None,
        "video": video,
        "model": {"name": MODEL, "version": 1, "digest": "00ff"},
        "params": {
            "every_nth": 1,
            "fps": None,
            "start_s": None,
            "end_s": None,
            "view": {"conf": 0.25, "iou": 0.7, "classes": None, "max_det": 300},
            "priority": 50,
            "timeout_s": None,
            "tags": [],
        },
        "progress": progress_json(0),
        "ledger": {"planned": FRAMES, "inferred": 0, "failed": 0, "skipped": 0, "reasons": {}},
        "timings_s": {
            "queued": None,
            "indexing": None,
            "decoding": 0.0,
            "waiting": 0.0,
            "inferring": 0.0,
            "writing": 0.0,
        },
        "error": None,
        "warnings": [],
        "notes": [],
        "created_at": CREATED_AT,
        "started_at": None,
        "finished_at": None,
    }


def over(job: Json, done: Json) -> Json:
    """`job` after its `done` event."""
    ledger = {"planned": FRAMES, "inferred": done["frames_done"], "failed": 0, "skipped": 0, "reasons": {}}
    return {
        **job,
        "state": done["state"],
        "is_terminal": True,
        "stage": "done",
        "queue_position": None,
        "error": done["error"],
        "progress": progress_json(done["frames_done"]),
        "ledger": ledger,
        "finished_at": CREATED_AT,
    }


def progress_json(frames_done: int) -> Json:
    return {
        "percent": 100.0 * frames_done / FRAMES,
        "frames_done": frames_done,
        "frames_total": FRAMES,
        "fps": 12.5,
        "realtime_factor": 1.2,
        "eta_s": 3.0,
    }


def whole_life(job_id: str, ends_as: str) -> list[Log]:
    """Queued, running, two segments with progress between them, and the end."""
    error = {"code": "video_without_frames", "message": "every frame failed"} if ends_as == "failed" else None
    totals = {"frames_done": FRAMES, "frames_total": FRAMES}
    return [
        Log("state", 1, {"job_id": job_id, "state": "queued", "attempt": 1}),
        Log("state", 2, {"job_id": job_id, "state": "running", "attempt": 1}),
        Log("progress", None, {"job_id": job_id, **progress_json(1), "stage": "inferring"}),
        Log("segment", 3, segment_json(job_id, 0)),
        Log("progress", None, {"job_id": job_id, **progress_json(3), "stage": "inferring"}),
        Log("segment", 4, segment_json(job_id, 1)),
        Log("state", 5, {"job_id": job_id, "state": ends_as, "attempt": 1}),
        Log("progress", None, {"job_id": job_id, **progress_json(FRAMES), "stage": "done"}),
        Log("done", 6, {"job_id": job_id, "state": ends_as, "error": error, **totals}),
    ]


def segment_json(job_id: str, number: int) -> Json:
    return {
        "job_id": job_id,
        "segment": number,
        "first_frame": 2 * number,
        "last_frame": 2 * number + 1,
        "frames": 2,
        "inferred": 2,
        "failed": 0,
        "candidates": 3,
        "frames_done": 2 * number + 2,
        "frames_total": FRAMES,
    }


def model_json(name: str, *, is_ready: bool = True) -> Json:
    version = {
        "version": 1,
        "is_ready": is_ready,
        "reason": "" if is_ready else "it is loading",
        "digest": "00ff" if is_ready else None,
        "class_names": CLASS_NAMES if is_ready else [],
        "imgsz": 640 if is_ready else None,
        "floor": 0.05 if is_ready else None,
        "iou": 0.7 if is_ready else None,
        "precision": "fp32" if is_ready else None,
        "certificate": "passed" if is_ready else None,
        "certificate_report": None,
    }
    return {"name": name, "versions": [version]}


def detection_json(frame_index: int, class_name: str, confidence: float) -> Json:
    return {
        "frame_index": frame_index,
        "pts_ms": 100.0 * frame_index,
        "class_id": CLASS_NAMES.index(class_name),
        "class_name": class_name,
        "confidence": confidence,
        "xyxy": [1.0, 2.0, 30.0, 40.0],
    }


def frame_json(frame_index: int, *found: tuple[str, float]) -> Json:
    """A frame's line of ndjson. found: class names and confidences."""
    return {
        "frame_index": frame_index,
        "pts_ms": 100.0 * frame_index,
        "detections": [detection_json(frame_index, class_name, confidence) for class_name, confidence in found],
    }
