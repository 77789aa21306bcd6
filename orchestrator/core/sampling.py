"""Which frames a sampling takes: a pure function of the index, so that percent and ETA are true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.types import FrameIndex, FrameStamp, Sampling

MOST_SLACK_MS: Final = 1.0


def sampled_frames(index: FrameIndex, sampling: Sampling) -> NDArray[np.int64]:
    """Source positions (S,) of the sampled frames, in presentation order; times count from the first frame."""
    pts_ms = index.pts_ms()
    # Containers round time stamps, and 133 ms must still serve the instant 133.33; but no frame is a whole step early.
    slack_ms = min(float(index.time_base) * 500, MOST_SLACK_MS)
    first = 0 if sampling.start_ms is None else int(np.searchsorted(pts_ms, sampling.start_ms - slack_ms))
    end = len(index) if sampling.end_ms is None else int(np.searchsorted(pts_ms, sampling.end_ms - slack_ms))
    if sampling.fps is None:
        return np.arange(first, end, sampling.every_nth, dtype=np.int64)
    # A frame is taken if an instant lies after the frame before it and not after itself.
    passed = np.floor((pts_ms[first:end] + slack_ms - (sampling.start_ms or 0.0)) * sampling.fps / 1000)
    is_taken = np.diff(passed, prepend=-1.0) > 0
    return (first + np.flatnonzero(is_taken)).astype(np.int64)


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
