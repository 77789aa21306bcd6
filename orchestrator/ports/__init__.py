"""What the use cases need of the world, as small protocols; each has a contract suite in `tests/contract`."""

from __future__ import annotations

from orchestrator.ports.at_work import (
    BatchReader,
    Doorbell,
    EventBus,
    Model,
    ModelCatalogue,
    ModelStatus,
    SegmentBatches,
    SegmentRequest,
    Slots,
    Subscription,
    VideoReader,
    Wake,
)
from orchestrator.ports.stored import (
    CandidateArchive,
    EventStore,
    IncomingVideo,
    JobStore,
    Page,
    PartStore,
    RunStore,
    Stores,
    VideoFiles,
    VideoStore,
)

__all__ = [
    "BatchReader",
    "CandidateArchive",
    "Doorbell",
    "EventBus",
    "EventStore",
    "IncomingVideo",
    "JobStore",
    "Model",
    "ModelCatalogue",
    "ModelStatus",
    "Page",
    "PartStore",
    "RunStore",
    "SegmentBatches",
    "SegmentRequest",
    "Slots",
    "Stores",
    "Subscription",
    "VideoFiles",
    "VideoReader",
    "VideoStore",
    "Wake",
]
