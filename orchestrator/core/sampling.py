"""Which frames a sampling takes: a pure function of the index, so that percent and ETA are true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.types import FrameIndex, FrameStamp, Sampling


def sampled_frames(index: FrameIndex, sampling: Sampling) -> NDArray[np.int64]:
    """Source positions (S,) of the sampled frames, in presentation order; times count from the first frame."""
    pts_ms = index.pts_ms()
    # Half a tick of slack: containers round time stamps, and 133 ms must still serve the instant 133.33.
    slack_ms = float(index.time_base) * 500
    first = 0 if sampling.start_ms is None else int(np.searchsorted(pts_ms, sampling.start_ms - slack_ms))
    end = len(index) if sampling.end_ms is None else int(np.searchsorted(pts_ms, sampling.end_ms - slack_ms))
    if sampling.fps is None:
        return np.arange(first, end, sampling.every_nth, dtype=np.int64)
    if first >= end:
        return np.zeros(0, dtype=np.int64)
    step_ms = 1000 / sampling.fps
    from_ms = sampling.start_ms or 0.0
    instants_ms = from_ms + step_ms * np.arange(int((pts_ms[end - 1] - from_ms) / step_ms) + 2)
    taken = np.unique(np.searchsorted(pts_ms, instants_ms - slack_ms))
    return taken[(taken >= first) & (taken < end)].astype(np.int64)


@dataclass(frozen=True, slots=True)
class SampledFrames:
    """A video's index and what a sampling takes of it. positions: int64 (S,) source indices, ascending."""

    index: FrameIndex
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, index: FrameIndex, sampling: Sampling) -> SampledFrames:
        return cls(index, sampled_frames(index, sampling))

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def skipped(self) -> int:
        """Frames of the video that the sampling leaves out."""
        return len(self.index) - len(self.positions)

    def pts_ms(self, first_sample: int, last_sample: int) -> NDArray[np.float64]:
        """Times of samples first..last, inclusive, since the video's first frame."""
        ticks = self.index.pts[self.positions[first_sample : last_sample + 1]] - self.index.pts[0]
        return np.asarray(ticks * float(self.index.time_base * 1000), dtype=np.float64)

    def stamps(self, first_sample: int, last_sample: int) -> tuple[FrameStamp, ...]:
        """Of samples first..last, inclusive."""
        indices = self.positions[first_sample : last_sample + 1].tolist()
        times_ms = self.pts_ms(first_sample, last_sample).tolist()
        return tuple(FrameStamp(index, pts_ms) for index, pts_ms in zip(indices, times_ms, strict=True))
