"""What every format says about a result before its first detection."""

from __future__ import annotations

from typing import Annotated

import msgspec

from orchestrator.core.types import ModelVersion, Sampling, View
from orchestrator.results import ResultHeader


class ModelName(msgspec.Struct, frozen=True):
    """One published model version."""

    name: Annotated[str, msgspec.Meta(description="As it was published.", examples=["yolo11n"])]
    version: Annotated[int, msgspec.Meta(description="1 is the oldest.", examples=[1])]
    digest: Annotated[str, msgspec.Meta(description="SHA-256 of the served graph, hex.")]

    @classmethod
    def from_version(cls, model: ModelVersion) -> ModelName:
        return cls(name=model.name, version=model.version, digest=model.digest)


class ViewAnswer(msgspec.Struct, frozen=True):
    """The thresholds and filters in force."""

    conf: Annotated[float, msgspec.Meta(description="Boxes of at least this confidence.", examples=[0.25])]
    iou: Annotated[float, msgspec.Meta(description="IoU of the suppression.", examples=[0.7])]
    classes: Annotated[list[str] | None, msgspec.Meta(description="Names; null lets every class through.")]
    max_det: Annotated[int, msgspec.Meta(description="Most boxes a frame.", examples=[300])]

    @classmethod
    def from_view(cls, view: View, class_names: tuple[str, ...]) -> ViewAnswer:
        ids = view.class_ids
        return cls(
            conf=view.min_confidence,
            iou=view.iou,
            classes=None if ids is None else [class_names[class_id] for class_id in sorted(ids)],
            max_det=view.max_det,
        )


class SamplingAnswer(msgspec.Struct, frozen=True):
    """Which frames are inferred: every n-th, or `fps` a second; from start_s on, before end_s."""

    every_nth: Annotated[int, msgspec.Meta(description="Frames 0, n, 2n, ...; 1 is every frame.")]
    fps: Annotated[
        float | None, msgspec.Meta(description="Frames a second, instead of `every_nth`; null where that counts.")
    ]
    start_s: Annotated[float | None, msgspec.Meta(description="From this second on; null: the beginning.")]
    end_s: Annotated[float | None, msgspec.Meta(description="Before this second; null: the end.")]

    @classmethod
    def from_sampling(cls, sampling: Sampling) -> SamplingAnswer:
        return cls(
            every_nth=sampling.every_nth,
            fps=sampling.fps,
            start_s=None if sampling.start_ms is None else sampling.start_ms / 1000,
            end_s=None if sampling.end_ms is None else sampling.end_ms / 1000,
        )


class ResultVideo(msgspec.Struct, frozen=True):
    """The video in short; sizes are those of the upright frame."""

    id: Annotated[str, msgspec.Meta(description="Of the video.")]
    file_name: Annotated[str, msgspec.Meta(description="What the client called it.")]
    sha256: Annotated[str, msgspec.Meta(description="Of the content, hex.")]
    width_px: Annotated[int, msgspec.Meta(description="Of the upright frame.")]
    height_px: Annotated[int, msgspec.Meta(description="Of the upright frame.")]
    frame_count: Annotated[int | None, msgspec.Meta(description="Counted; null until the video is indexed.")]
    fps: Annotated[float | None, msgspec.Meta(description="Before the video is indexed: what the header says.")]


class ResultHead(msgspec.Struct, frozen=True):
    """First line of ndjson, first members of the JSON document, metadata of the Parquet file."""

    job_id: Annotated[str, msgspec.Meta(description="The job that was asked.")]
    state: Annotated[str, msgspec.Meta(description="Of the job, when the answer began.", examples=["succeeded"])]
    model: Annotated[ModelName, msgspec.Meta(description="The version that looked.")]
    video: Annotated[ResultVideo, msgspec.Meta(description="The video in short.")]
    sampling: Annotated[SamplingAnswer, msgspec.Meta(description="Which frames were inferred.")]
    view: Annotated[ViewAnswer, msgspec.Meta(description="The view that was applied.")]
    is_second_suppression: Annotated[
        bool, msgspec.Meta(description="True where `view.iou` is stricter than the one the boxes were stored with.")
    ]
    class_names: Annotated[list[str], msgspec.Meta(description="In the order of their ids.")]
    complete_through_frame: Annotated[
        int | None, msgspec.Meta(description="Every sampled frame up to this one is in the result; null: none yet.")
    ]
    is_complete: Annotated[bool, msgspec.Meta(description="False while the job works, and for one that ended early.")]
    warnings: Annotated[list[str], msgspec.Meta(description="Codes of missing or suspect frames.")]
    notes: Annotated[list[str], msgspec.Meta(description="Codes of other remarks.")]

    @classmethod
    def from_header(cls, header: ResultHeader) -> ResultHead:
        video, run = header.video, header.run
        return cls(
            job_id=header.job.id,
            state=header.job.state.value,
            model=ModelName.from_version(run.spec.model),
            video=ResultVideo(
                id=video.id,
                file_name=video.file_name,
                sha256=video.sha256,
                width_px=video.header.width_px,
                height_px=video.header.height_px,
                frame_count=video.report.frame_count if video.report else None,
                fps=video.report.fps if video.report else video.header.fps_hint,
            ),
            sampling=SamplingAnswer.from_sampling(run.spec.sampling),
            view=ViewAnswer.from_view(header.view, header.class_names),
            is_second_suppression=header.is_second_suppression,
            class_names=list(header.class_names),
            complete_through_frame=header.complete_through_frame,
            is_complete=header.is_complete,
            warnings=list(run.warnings),
            notes=list(run.notes),
        )
