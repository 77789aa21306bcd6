"""The JSON of models, limits and the server's own state."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Annotated

import msgspec
from msgspec import Meta

from orchestrator.bootstrap import Readiness
from orchestrator.core.contract import MAX_CANDIDATES
from orchestrator.ports import ModelStatus
from orchestrator.settings import Settings
from orchestrator.web.job_schemas import MAX_TAG_LENGTH, MAX_TAGS


class ModelVersionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One version as Triton sees it. What it tells of itself is null while it is not ready."""

    version: Annotated[int, Meta(description="1 is the oldest.", examples=[1])]
    is_ready: Annotated[bool, Meta(description="Whether Triton serves it.")]
    reason: Annotated[str, Meta(description="Why it is not ready.")]
    digest: Annotated[str | None, Meta(description="SHA-256 of the served graph, hex.")]
    class_names: Annotated[list[str], Meta(description="In the order of their ids.")]
    imgsz: Annotated[int | None, Meta(description="Longest side of the model's input, in pixels.", examples=[640])]
    floor: Annotated[float | None, Meta(description="Boxes under this confidence are not stored.", examples=[0.05])]
    iou: Annotated[float | None, Meta(description="Boxes were suppressed at this IoU.", examples=[0.7])]
    precision: Annotated[str | None, Meta(description="Of the served graph.", examples=["fp32"])]
    certificate: Annotated[str | None, Meta(description="passed, or weak.", examples=["passed"])]
    certificate_report: Annotated[
        dict[str, object] | None, Meta(description="The whole certificate; only where one model is asked for.")
    ] = None

    @classmethod
    def from_status(cls, status: ModelStatus, report: dict[str, object] | None = None) -> ModelVersionAnswer:
        card = status.model.card if status.model else None
        return cls(
            version=status.version,
            is_ready=status.is_ready,
            reason=status.reason,
            digest=card.digest if card else None,
            class_names=list(card.class_names) if card else [],
            imgsz=card.imgsz if card else None,
            floor=card.floor if card else None,
            iou=card.iou if card else None,
            precision=card.precision if card else None,
            certificate=card.certificate if card else None,
            certificate_report=report,
        )


class ModelAnswer(msgspec.Struct, frozen=True):
    """A published model."""

    name: Annotated[str, Meta(description="What a submit names.", examples=["yolo11n"])]
    versions: Annotated[list[ModelVersionAnswer], Meta(description="Oldest first.")]


class ModelPage(msgspec.Struct, frozen=True):
    """All models, by name."""

    items: Annotated[list[ModelAnswer], Meta(description="Every model.")]

    @classmethod
    def from_statuses(cls, statuses: Iterable[ModelStatus]) -> ModelPage:
        ordered = sorted(statuses, key=lambda status: (status.name, status.version))
        return cls(
            items=[
                ModelAnswer(name, [ModelVersionAnswer.from_status(status) for status in versions])
                for name, versions in groupby(ordered, key=lambda status: status.name)
            ]
        )


class LimitsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit by name. What goes beyond one is refused, with the limit in the error's sentence."""

    max_upload_bytes: Annotated[int, Meta(description="Of a video file.", examples=[8 * 1024**3])]
    max_duration_s: Annotated[float, Meta(description="Of a video.")]
    max_frame_pixels: Annotated[int, Meta(description="Width times height of a frame.")]
    max_fps: Annotated[float, Meta(description="Frames a second of a video.")]
    max_frames: Annotated[int, Meta(description="Frames of a video.")]
    decoder_memory_bytes: Annotated[int, Meta(description="Address space of one decoder.")]
    stall_timeout_s: Annotated[float, Meta(description="How long an open segment may be without a new batch.")]
    max_running_jobs: Annotated[int, Meta(description="More wait in the queue.")]
    max_detections_per_frame: Annotated[int, Meta(description="Largest `max_det` of a view.")]
    max_tags: Annotated[int, Meta(description="Tags of a job.")]
    max_tag_length: Annotated[int, Meta(description="Characters of a tag.")]
    max_page_items: Annotated[int, Meta(description="Largest `limit` of a list.")]
    max_body_bytes: Annotated[int, Meta(description="Of every request that is no upload.")]

    @classmethod
    def from_settings(cls, settings: Settings, *, max_page_items: int, max_body_bytes: int) -> LimitsAnswer:
        limits = settings.limits
        return cls(
            max_upload_bytes=settings.http.max_upload_bytes,
            max_duration_s=limits.max_duration_s,
            max_frame_pixels=limits.max_frame_pixels,
            max_fps=limits.max_fps,
            max_frames=limits.max_frames,
            decoder_memory_bytes=limits.decoder_memory_bytes,
            stall_timeout_s=settings.work.stall_timeout_s,
            max_running_jobs=settings.work.max_running_jobs,
            max_detections_per_frame=MAX_CANDIDATES,
            max_tags=MAX_TAGS,
            max_tag_length=MAX_TAG_LENGTH,
            max_page_items=max_page_items,
            max_body_bytes=max_body_bytes,
        )


class HealthAnswer(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Annotated[str, Meta(description="Always ok.", examples=["ok"])]


class TritonAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One Triton of those that jobs are spread over."""

    url: Annotated[str, Meta(description="gRPC endpoint.", examples=["127.0.0.1:8001"])]
    is_ready: Annotated[bool, Meta(description="Whether it can be given work.")]
    reasons: Annotated[list[str], Meta(description="What is missing there.")]
    transport: Annotated[str, Meta(description="shm or grpc: how frames reach it.", examples=["shm"])]
    transport_reason: Annotated[str, Meta(description="Why this one.")]


class ReadinessAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether jobs can be worked on now."""

    is_ready: Annotated[bool, Meta(description="Whether jobs can be worked on.")]
    reasons: Annotated[list[str], Meta(description="What is missing.")]
    transport: Annotated[
        str,
        Meta(description="How frames reach Triton: shm, grpc, or mixed where it depends on which.", examples=["shm"]),
    ]
    transport_reason: Annotated[str, Meta(description="Why this one.")]
    triton_url: Annotated[
        str, Meta(description="gRPC endpoint; several are parted by commas.", examples=["127.0.0.1:8001"])
    ]
    triton_metrics_url: Annotated[
        str, Meta(description="Triton's own Prometheus endpoint.", examples=["http://127.0.0.1:8002/metrics"])
    ]
    tritons: Annotated[list[TritonAnswer], Meta(description="Each Triton by itself.")]

    @classmethod
    def from_readiness(cls, readiness: Readiness) -> ReadinessAnswer:
        return cls(
            is_ready=readiness.is_ready,
            reasons=list(readiness.reasons),
            transport=readiness.transport,
            transport_reason=readiness.transport_reason,
            triton_url=readiness.triton_url,
            triton_metrics_url=readiness.triton_metrics_url,
            tritons=[
                TritonAnswer(
                    url=each.url,
                    is_ready=each.is_ready,
                    reasons=list(each.reasons),
                    transport=each.transport,
                    transport_reason=each.transport_reason,
                )
                for each in readiness.tritons
            ],
        )
