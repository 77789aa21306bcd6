"""From sampled frames to segments, and where each segment's decoding may enter the file."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.sampling import SampledFrames
from orchestrator.core.types import FrameIndex, SegmentPlan

# The first segment is one batch on a CPU, so that a watcher sees detections at once: of two, the second would queue
# behind a batch of the next segment, which is worked on beside it.
FIRST_SEGMENT_FRAMES: Final = 4
# A seek costs about as much as decoding one small frame; fewer than these are decoded on the way.
SHORTEST_CUT_FRAMES: Final = 4


def plan_segments(frames: SampledFrames, *, segment_frames: int) -> tuple[SegmentPlan, ...]:
    """Cut the sampled frames into segments of `segment_frames`, the first one short."""
    total = len(frames)
    if total == 0:
        return ()
    lead = min(FIRST_SEGMENT_FRAMES, segment_frames)
    firsts = np.concatenate([[0], np.arange(lead, total, segment_frames, dtype=np.int64)])
    lasts = np.concatenate([firsts[1:] - 1, [total - 1]])
    entries = _entries(frames.index, frames.positions[firsts])
    return tuple(
        SegmentPlan(number, first, last, entry)
        for number, (first, last, entry) in enumerate(zip(firsts.tolist(), lasts.tolist(), entries, strict=True))
    )


def _entries(index: FrameIndex, wanted: NDArray[np.int64]) -> list[int | None]:
    """For each wanted frame the time stamp of the last key frame at or before it, None for the file's start."""
    if not index.is_timed:
        return [None] * len(wanted)
    keys = np.flatnonzero(index.is_key)
    at = np.searchsorted(keys, wanted, side="right") - 1
    # The first segment, and everything behind the first key frame only, starts with the file: no seek can fail there.
    return [None if number == 0 or k <= 0 else int(index.pts[keys[k]]) for number, k in enumerate(at.tolist())]


def earlier_entries(index: FrameIndex, entry_pts: int | None) -> tuple[int, ...]:
    """Where to enter when `entry_pts` loses frames: 1, 2, 4, ... key frames earlier, nearest first.

    The distance doubles so that a file that cannot be entered at all costs few attempts; the start of the
    file, always the last resort, is not in the list.
    """
    if entry_pts is None or not index.is_timed:
        return ()
    keys = np.flatnonzero(index.is_key)
    here = int(np.searchsorted(index.pts[keys], entry_pts))
    steps = (1 << power for power in range(63))
    earlier: list[int] = []
    for step in steps:
        if here - step <= 0:
            break
        earlier.append(int(index.pts[keys[here - step]]))
    return tuple(earlier)


def short_cuts(frames: SampledFrames, plan: SegmentPlan) -> NDArray[np.int64]:
    """Key frames (K,), ticks, ascending, that decoding may go to at once when the sampled frame before them is out.

    Each is the last key frame that is not behind some sampled frame of the segment, and leaves frames between the
    sampled frame before and itself unread, 4 or more.
    """
    index = frames.index
    keys = np.flatnonzero(index.is_key)
    if not index.is_timed or not len(keys):
        return np.zeros(0, dtype=np.int64)
    wanted = frames.positions[plan.first_sample : plan.last_sample + 1]
    before = frames.positions[plan.first_sample - 1] if plan.first_sample else -1
    left_behind = np.concatenate([[before], wanted[:-1]])
    at = np.searchsorted(keys, wanted, side="right") - 1
    targets = keys[np.maximum(at, 0)]
    is_worth_it = (at > 0) & (targets - left_behind > SHORTEST_CUT_FRAMES)
    return np.asarray(index.pts[targets[is_worth_it]], dtype=np.int64)
