"""Live progress: a meter for each run at work in this process, whose shares travel on the event bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.progress import ProgressShare, RunMeter, combined
from orchestrator.core.records import Progress, Run, Video
from orchestrator.core.sampling import SampledFrames
from orchestrator.core.states import RunState
from orchestrator.ports import EventBus

# A worker is not told when a run that it had part in ends elsewhere; it keeps the meters that it used last.
MOST_METERS: Final = 200


@dataclass(slots=True, kw_only=True)
class Meters:
    """worker_id: what other processes know this one by. monotonic_s: a clock for speeds."""

    bus: EventBus
    worker_id: str
    monotonic_s: Callable[[], float]
    _by_run: dict[str, RunMeter] = field(default_factory=dict)

    def begin(self, run: Run, video: Video, frames: SampledFrames) -> None:
        """Meter a planned run, or go on metering it."""
        if run.frames_total is None:
            return
        meter = self._by_run.pop(run.id, None) or _meter_of(run, video, frames)
        meter.see_committed(run.ledger.settled)
        self._forget_idle()
        # At the end: the dictionary is in order of use.
        self._by_run[run.id] = meter

    async def inferred(self, run_id: str, segment: int, frames: int) -> None:
        meter = self._by_run.get(run_id)
        if meter:
            meter.infer(segment, frames, now_s=self.monotonic_s())
            await self._tell(meter)

    async def committed(self, run: Run, segment: int) -> None:
        meter = self._by_run.get(run.id)
        if meter:
            meter.commit(segment, run.ledger.settled)
            await self._tell(meter)

    async def gave_up(self, run_id: str, segment: int) -> None:
        meter = self._by_run.get(run_id)
        if meter:
            meter.give_up(segment)
            await self._tell(meter)

    def end(self, run_id: str) -> None:
        self._by_run.pop(run_id, None)

    def snapshot(self, run: Run, *, stage: str) -> Progress:
        """The newest that is known of a run: from the processes at work on it, and from its row."""
        shares = self._shares(run.id) if run.state is RunState.OPEN else []
        return combined(run.id, shares, stage=stage, frames_total=run.frames_total, frames_committed=run.ledger.settled)

    def _shares(self, run_id: str) -> list[ProgressShare]:
        """Those of others that were heard of lately, and one's own, unless only the others go on."""
        heard = self.bus.shares(run_id)
        shares = [share for share in heard if share.worker_id != self.worker_id]
        is_told = len(shares) < len(heard)
        if (meter := self._by_run.get(run_id)) and (is_told or meter.frames_open or not shares):
            shares.append(self._share_of(meter))
        return shares

    async def _tell(self, meter: RunMeter) -> None:
        await self.bus.publish_progress(self._share_of(meter))

    def _share_of(self, meter: RunMeter) -> ProgressShare:
        return meter.share(self.worker_id, now_s=self.monotonic_s())

    def _forget_idle(self) -> None:
        """Make room for one more."""
        idle = [run_id for run_id, meter in self._by_run.items() if not meter.frames_open]
        for run_id in idle[: max(0, len(self._by_run) + 1 - MOST_METERS)]:
            del self._by_run[run_id]


def _meter_of(run: Run, video: Video, frames: SampledFrames) -> RunMeter:
    """run: planned."""
    assert run.frames_total is not None
    source_frames = int(frames.positions[-1] - frames.positions[0]) + 1
    return RunMeter(
        run_id=run.id,
        frames_total=run.frames_total,
        frames_committed=run.ledger.settled,
        source_fps=video.report.fps if video.report else None,
        frames_per_sample=source_frames / len(frames),
    )
