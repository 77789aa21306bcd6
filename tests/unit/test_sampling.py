from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.sampling import SampledFrames, sampled_frames
from orchestrator.core.types import FrameIndex, Sampling
from orchestrator.errors import SamplingInvalidError


def index_of(pts: list[int], time_base: Fraction = Fraction(1, 1000)) -> FrameIndex:
    return FrameIndex(np.array(pts, dtype=np.int64), np.ones(len(pts), dtype=np.bool_), time_base)


def test_every_nth_takes_frames_0_n_2n() -> None:
    assert sampled_frames(index_of(list(range(0, 400, 40))), Sampling(every_nth=3)).tolist() == [0, 3, 6, 9]


def test_fps_takes_the_first_frame_at_or_after_each_instant() -> None:
    thirty_fps = index_of([round(i * 1000 / 30) for i in range(30)])
    assert sampled_frames(thirty_fps, Sampling(fps=10)).tolist() == list(range(0, 30, 3))


def test_fps_above_the_rate_of_the_video_takes_every_frame_once() -> None:
    assert sampled_frames(index_of([0, 40, 80]), Sampling(fps=1000)).tolist() == [0, 1, 2]


def test_fps_on_uneven_frames_follows_time_and_not_counts() -> None:
    uneven = index_of([0, 10, 20, 30, 1000, 1010, 2000])
    assert sampled_frames(uneven, Sampling(fps=1)).tolist() == [0, 4, 6]


def test_start_is_included_and_end_is_not() -> None:
    assert sampled_frames(index_of([0, 100, 200, 300]), Sampling(start_ms=100, end_ms=300)).tolist() == [1, 2]


def test_times_count_from_the_first_frame() -> None:
    shifted = index_of([5000, 5100, 5200])
    assert sampled_frames(shifted, Sampling(start_ms=100)).tolist() == [1, 2]
    assert [stamp.pts_ms for stamp in SampledFrames.of(shifted, Sampling()).stamps(0, 2)] == [0.0, 100.0, 200.0]


def test_a_start_behind_the_end_of_the_video_leaves_no_frame() -> None:
    for sampling in (Sampling(start_ms=10_000), Sampling(start_ms=10_000, fps=5)):
        assert len(sampled_frames(index_of([0, 100]), sampling)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"every_nth": 0},
        {"fps": 0.0},
        {"fps": 5.0, "every_nth": 2},
        {"start_ms": -1.0},
        {"start_ms": 5.0, "end_ms": 5.0},
    ],
)
def test_a_sampling_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SamplingInvalidError):
        Sampling(**wrong)  # type: ignore[arg-type]  # the table mixes ints and floats


gaps = st.lists(st.integers(1, 500), min_size=0, max_size=60)


@given(gaps=gaps, fps=st.floats(0.1, 200), start=st.floats(0, 2000), length=st.floats(1, 20_000))
def test_any_sampling_takes_ascending_frames_within_its_bounds(
    gaps: list[int], fps: float, start: float, length: float
) -> None:
    index = index_of(np.cumsum([0, *gaps]).tolist())
    taken = sampled_frames(index, Sampling(fps=fps, start_ms=start, end_ms=start + length))
    assert (np.diff(taken) > 0).all()
    times_ms = index.pts_ms()[taken]
    assert (times_ms >= start - 0.5).all()
    assert (times_ms < start + length).all()


@given(gaps=gaps, every_nth=st.integers(1, 20))
def test_sampled_and_skipped_frames_add_up(gaps: list[int], every_nth: int) -> None:
    index = index_of(np.cumsum([0, *gaps]).tolist())
    frames = SampledFrames.of(index, Sampling(every_nth=every_nth))
    assert len(frames) + frames.skipped == len(index)
