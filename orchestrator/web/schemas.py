"""The JSON of videos and timelines. Each answer is made from one value of the core."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from orchestrator.core.records import Failure, Video
from orchestrator.formats.result_head import ViewAnswer
from orchestrator.results import ResultHeader, Timeline

VIDEO_ID: Final = "vid_FzZqTRQrMc5OhGpX6Azc1Q"
SHA256: Final = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


class FailureAnswer(msgspec.Struct, frozen=True):
    """Why something failed, and what to do about it."""

    code: Annotated[str, Meta(description="Stable; see docs/errors.md.", examples=["video_unreadable"])]
    message: Annotated[
        str,
        Meta(
            description="What went wrong and what to do, for people.",
            examples=["no demuxer opens this file; upload a video"],
        ),
    ]

    @classmethod
    def from_failure(cls, failure: Failure | None) -> FailureAnswer | None:
        return cls(code=failure.code, message=failure.message) if failure else None


class VideoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An uploaded video. What comes from the index is null until `index_state` is `ready`."""

    id: Annotated[str, Meta(description="What a submit names.", examples=[VIDEO_ID])]
    file_name: Annotated[str, Meta(description="What the client called it.", examples=["crossing.mp4"])]
    sha256: Annotated[str, Meta(description="Of the content, hex.", examples=[SHA256])]
    size_bytes: Annotated[int, Meta(description="Of the file.", examples=[1_048_576])]
    container: Annotated[
        str, Meta(description="Formats of the demuxer that opened it.", examples=["mov,mp4,m4a,3gp,3g2,mj2"])
    ]
    codec: Annotated[str, Meta(description="Of the video stream.", examples=["h264"])]
    width_px: Annotated[int, Meta(description="Of the upright frame.", examples=[1920])]
    height_px: Annotated[int, Meta(description="Of the upright frame.", examples=[1080])]
    rotation_deg: Annotated[int, Meta(description="Clockwise, as the file asks for.", examples=[0])]
    is_mirrored: Annotated[
        bool, Meta(description="Whether the file asks for a mirrored picture; it was upright before inference.")
    ]
    duration_s: Annotated[float | None, Meta(description="Before the index is made: what the header says.")]
    frame_count: Annotated[int | None, Meta(description="Counted, not taken from the header.", examples=[300])]
    fps: Annotated[float | None, Meta(description="Before the index is made: what the header says.", examples=[29.97])]
    is_vfr: Annotated[bool | None, Meta(description="Whether frames are unevenly spaced.")]
    index_state: Annotated[str, Meta(description="pending, ready or failed.", examples=["ready"])]
    warnings: Annotated[list[str], Meta(description="Codes of missing or suspect frames.")]
    notes: Annotated[list[str], Meta(description="Codes of other remarks.")]
    error: Annotated[FailureAnswer | None, Meta(description="Why there is no index.")]
    created_at: Annotated[datetime, Meta(description="When the upload was whole, UTC.")]

    @classmethod
    def from_video(cls, video: Video) -> VideoAnswer:
        header, report = video.header, video.report
        return cls(
            id=video.id,
            file_name=video.file_name,
            sha256=video.sha256,
            size_bytes=video.size_bytes,
            container=header.container,
            codec=header.codec,
            width_px=header.width_px,
            height_px=header.height_px,
            rotation_deg=header.rotation_deg,
            is_mirrored=header.is_mirrored,
            duration_s=report.duration_s if report else header.duration_s_hint,
            frame_count=report.frame_count if report else None,
            fps=report.fps if report else header.fps_hint,
            is_vfr=report.is_vfr if report else None,
            index_state=video.index_state.value,
            warnings=list(report.warnings) if report else [],
            notes=[*header.notes, *(report.notes if report else ())],
            error=FailureAnswer.from_failure(video.index_failure),
            created_at=video.created_at,
        )


class VideoPage(msgspec.Struct, frozen=True):
    """Newest first."""

    items: Annotated[list[VideoAnswer], Meta(description="At most `limit` videos.")]
    next_cursor: Annotated[str | None, Meta(description="Give it as `cursor` for the next page; null on the last.")]


class BucketAnswer(msgspec.Struct, frozen=True):
    """Detections by class name in [start_s, start_s + bucket_s)."""

    start_s: Annotated[float, Meta(description="Since the first frame of the video.")]
    frames: Annotated[int, Meta(description="Sampled frames in the bucket so far.")]
    counts: Annotated[
        dict[str, int], Meta(description="Detections by class name.", examples=[{"car": 12, "person": 0}])
    ]


class TimelineAnswer(msgspec.Struct, frozen=True):
    """Detections over time, under a view."""

    job_id: Annotated[str, Meta(description="The job that was asked.")]
    bucket_s: Annotated[float, Meta(description="Length of a bucket.")]
    view: Annotated[ViewAnswer, Meta(description="The view that was counted under.")]
    classes: Annotated[list[str], Meta(description="Names of the classes counted.")]
    buckets: Annotated[list[BucketAnswer], Meta(description="In order of time, without gaps.")]
    complete_through_frame: Annotated[
        int | None, Meta(description="Every sampled frame up to this one is counted; null: none yet.")
    ]
    is_complete: Annotated[bool, Meta(description="Whether the run is done.")]

    @classmethod
    def from_timeline(cls, header: ResultHeader, timeline: Timeline) -> TimelineAnswer:
        rows = zip(timeline.starts_s.tolist(), timeline.frames.tolist(), timeline.counts.tolist(), strict=True)
        return cls(
            job_id=header.job.id,
            bucket_s=timeline.bucket_s,
            view=ViewAnswer.from_view(header.view, header.class_names),
            classes=list(timeline.class_names),
            buckets=[
                BucketAnswer(start_s, frames, dict(zip(timeline.class_names, counts, strict=True)))
                for start_s, frames, counts in rows
            ],
            complete_through_frame=header.complete_through_frame,
            is_complete=header.is_complete,
        )
