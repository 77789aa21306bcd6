"""Live progress: a meter for each run at work in this process, and its snapshots on the event bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.core.progress import RunMeter
from orchestrator.core.records import Progress, Run, Video
from orchestrator.core.sampling import SampledFrames
from orchestrator.core.states import RunState
from orchestrator.ports import EventBus


@dataclass(slots=True, kw_only=True)
class Meters:
    """monotonic_s: a clock for speeds."""

    bus: EventBus
    monotonic_s: Callable[[], float]
    _by_run: dict[str, RunMeter] = field(default_factory=dict)

    def begin(self, run: Run, video: Video, frames: SampledFrames) -> None:
        """Meter a planned run; nothing happens if it is metered already."""
        if run.id in self._by_run or run.frames_total is None:
            return
        source_frames = int(frames.positions[-1] - frames.positions[0]) + 1
        self._by_run[run.id] = RunMeter(
            run_id=run.id,
            frames_total=run.frames_total,
            frames_committed=run.ledger.settled,
            source_fps=video.report.fps if video.report else None,
            frames_per_sample=source_frames / len(frames),
        )

    async def inferred(self, run_id: str, segment: int, frames: int) -> None:
        meter = self._by_run.get(run_id)
        if meter:
            meter.infer(segment, frames, now_s=self.monotonic_s())
            await self.bus.publish_progress(meter.snapshot("inferring"))

    async def committed(self, run: Run, segment: int) -> None:
        meter = self._by_run.get(run.id)
        if meter:
            meter.commit(segment, run.ledger.settled)
            await self.bus.publish_progress(meter.snapshot("inferring"))

    def gave_up(self, run_id: str, segment: int) -> None:
        meter = self._by_run.get(run_id)
        if meter:
            meter.give_up(segment)

    def end(self, run_id: str) -> None:
        self._by_run.pop(run_id, None)

    def snapshot(self, run: Run, *, stage: str) -> Progress:
        """The newest that is known of a run: its meter's, or what the database tells."""
        meter = self._by_run.get(run.id)
        if meter and run.state is RunState.OPEN:
            return meter.snapshot(stage)
        done = run.ledger.settled
        is_over = run.frames_total is not None and done >= run.frames_total
        return Progress(
            run_id=run.id,
            frames_done=done,
            frames_total=run.frames_total,
            fps=None,
            realtime_factor=None,
            eta_s=0.0 if is_over else None,
            stage=stage,
        )
