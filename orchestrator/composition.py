"""Joining the use cases to whatever parts there are: real ones in `bootstrap`, in-memory ones in tests."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from orchestrator.announcing import Announcer
from orchestrator.core.postponed import Postponed
from orchestrator.core.window import FrameWindow
from orchestrator.following import Following
from orchestrator.jobs import Jobs
from orchestrator.metering import Meters
from orchestrator.ports import Doorbell, EventBus, Model, ModelCatalogue, Slots, Stores, VideoReader
from orchestrator.results import Results
from orchestrator.sampled_runs import SampledRuns
from orchestrator.segment import SegmentTools
from orchestrator.telemetry import Metrics
from orchestrator.upkeep import Upkeep
from orchestrator.videos import Videos
from orchestrator.working import Worker

WANTED_POLL_S: Final = 0.25
RETRY_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the use cases stand on. work: rung when there may be work. utc_now: aware. monotonic_s: for durations."""

    stores: Stores
    reader: VideoReader
    slots: Slots
    model: Model
    catalogue: ModelCatalogue
    bus: EventBus
    work: Doorbell
    metrics: Metrics
    utc_now: Callable[[], datetime]
    monotonic_s: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """segment_frames: sampled frames a segment. batch_frames: most frames a request to Triton.

    window_frames: in flight over all segments, unless a model takes more at once.
    lease_s: how long a segment stays with a worker that shows no life. wait_budget_s: how long a run may wait for
    Triton or its model. wanted_poll_s: how often a run at work is asked whether it is still wanted. retry_pause_s:
    before a segment is tried again while Triton is away.
    """

    segment_frames: int
    batch_frames: int
    window_frames: int
    max_running_jobs: int
    lease_s: float
    wait_budget_s: float
    wanted_poll_s: float = WANTED_POLL_S
    retry_pause_s: float = RETRY_PAUSE_S


class UseCases:
    """All use cases of one process, joined. `worker` makes as many takers of segments as are wanted."""

    def __init__(self, parts: Parts, tuning: Tuning) -> None:
        self._parts = parts
        self._tuning = tuning
        self._meters = Meters(bus=parts.bus, worker_id=secrets.token_hex(8), monotonic_s=parts.monotonic_s)
        self._announcer = Announcer(bus=parts.bus, work=parts.work, metrics=parts.metrics)
        self._sampled = SampledRuns(files=parts.stores.files)
        self._stopping = asyncio.Event()
        self._postponed = Postponed()
        self._window = FrameWindow(tuning.window_frames)
        self.videos = self._videos()
        self.jobs = self._jobs()
        self.results = self._results()
        self.following = self._following()
        self.upkeep = self._upkeep()

    def worker(self) -> Worker:
        """One more taker of segments; all share one window of frames in flight."""
        parts, tuning = self._parts, self._tuning
        tools = SegmentTools(
            reader=parts.reader,
            model=parts.model,
            slots=parts.slots,
            parts=parts.stores.parts,
            runs=parts.stores.runs,
            window=self._window,
            metrics=parts.metrics,
            lease_s=tuning.lease_s,
            poll_s=tuning.wanted_poll_s,
            utc_now=parts.utc_now,
            monotonic_s=parts.monotonic_s,
        )
        return Worker(
            tools=tools,
            videos=parts.stores.videos,
            files=parts.stores.files,
            sampled=self._sampled,
            catalogue=parts.catalogue,
            bus=parts.bus,
            meters=self._meters,
            upkeep=self.upkeep,
            postponed=self._postponed,
            batch_frames=tuning.batch_frames,
            retry_pause_s=tuning.retry_pause_s,
            wait_budget_s=tuning.wait_budget_s,
        )

    def _videos(self) -> Videos:
        parts = self._parts
        return Videos(
            store=parts.stores.videos,
            files=parts.stores.files,
            reader=parts.reader,
            work=parts.work,
            metrics=parts.metrics,
            utc_now=parts.utc_now,
            monotonic_s=parts.monotonic_s,
        )

    def _jobs(self) -> Jobs:
        parts = self._parts
        return Jobs(
            store=parts.stores.jobs,
            runs=parts.stores.runs,
            videos=parts.stores.videos,
            archive=parts.stores.archive,
            reader=parts.reader,
            catalogue=parts.catalogue,
            announcer=self._announcer,
            meters=self._meters,
            utc_now=parts.utc_now,
        )

    def _results(self) -> Results:
        stores = self._parts.stores
        return Results(
            jobs=stores.jobs,
            runs=stores.runs,
            videos=stores.videos,
            parts=stores.parts,
            archive=stores.archive,
            sampled=self._sampled,
            bus=self._parts.bus,
            stopping=self._stopping,
        )

    def _following(self) -> Following:
        parts = self._parts
        return Following(
            jobs=parts.stores.jobs,
            runs=parts.stores.runs,
            events=parts.stores.events,
            bus=parts.bus,
            meters=self._meters,
            results=self.results,
            stopping=self._stopping,
            monotonic_s=parts.monotonic_s,
        )

    def _upkeep(self) -> Upkeep:
        parts, stores = self._parts, self._parts.stores
        return Upkeep(
            jobs=stores.jobs,
            runs=stores.runs,
            parts=stores.parts,
            videos=stores.videos,
            sampled=self._sampled,
            archive=stores.archive,
            reader=parts.reader,
            bus=parts.bus,
            meters=self._meters,
            announcer=self._announcer,
            work=parts.work,
            segment_frames=self._tuning.segment_frames,
            max_running_jobs=self._tuning.max_running_jobs,
            utc_now=parts.utc_now,
        )
