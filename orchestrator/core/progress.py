"""How far runs are, and how fast. Pure: the time is passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.records import Progress

# Speed is an average over this window: long enough to be calm, short enough to notice a stall.
SPEED_WINDOW_S: Final = 10.0


@dataclass(slots=True)
class RunMeter:
    """Counts one run's frames in this process. frames_committed: as the database last told.

    frames_open: inferred in segments that are not committed yet, by segment. source_fps: of the video, for the
    realtime factor; every source frame of a sampled stretch counts. frames_per_sample: source frames a sample.
    """

    run_id: str
    frames_total: int
    frames_committed: int
    source_fps: float | None
    frames_per_sample: float
    frames_open: dict[int, int] = field(default_factory=dict)
    _marks: deque[tuple[float, int]] = field(default_factory=deque)
    _frames_seen: int = 0

    def infer(self, segment: int, frames: int, *, now_s: float) -> None:
        """Frames of an open segment were inferred."""
        self.frames_open[segment] = self.frames_open.get(segment, 0) + frames
        self._frames_seen += frames
        self._marks.append((now_s, self._frames_seen))
        while self._marks[0][0] < now_s - SPEED_WINDOW_S:
            self._marks.popleft()

    def commit(self, segment: int, frames_committed: int) -> None:
        self.frames_open.pop(segment, None)
        self.frames_committed = max(self.frames_committed, frames_committed)

    def give_up(self, segment: int) -> None:
        self.frames_open.pop(segment, None)

    def snapshot(self, stage: str) -> Progress:
        done = min(self.frames_committed + sum(self.frames_open.values()), self.frames_total)
        fps = self._frames_a_second()
        left = self.frames_total - done
        return Progress(
            run_id=self.run_id,
            frames_done=done,
            frames_total=self.frames_total,
            fps=fps,
            realtime_factor=fps * self.frames_per_sample / self.source_fps if fps and self.source_fps else None,
            eta_s=left / fps if fps else (0.0 if left == 0 else None),
            stage=stage,
        )

    def _frames_a_second(self) -> float | None:
        if len(self._marks) < 2:
            return None
        (from_s, from_frames), (to_s, to_frames) = self._marks[0], self._marks[-1]
        return (to_frames - from_frames) / (to_s - from_s) if to_s > from_s else None
