from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.planning import (
    FIRST_SEGMENT_FRAMES,
    SHORTEST_CUT_FRAMES,
    earlier_entries,
    plan_segments,
    short_cuts,
)
from orchestrator.core.sampling import SampledFrames
from orchestrator.core.types import FrameIndex, Sampling


def index_with_keys(keys: list[bool], *, is_timed: bool = True) -> FrameIndex:
    pts = np.arange(len(keys), dtype=np.int64) * 40
    return FrameIndex(pts, np.array(keys, dtype=np.bool_), Fraction(1, 1000), is_timed)


def frames_with_key_every(n: int, *, total: int) -> SampledFrames:
    return SampledFrames.of(index_with_keys([i % n == 0 for i in range(total)]), Sampling())


key_flags = st.lists(st.booleans(), min_size=1, max_size=200)


@given(keys=key_flags, segment_frames=st.integers(1, 80), every_nth=st.integers(1, 9))
def test_segments_cover_every_sampled_frame_exactly_once(keys: list[bool], segment_frames: int, every_nth: int) -> None:
    frames = SampledFrames.of(index_with_keys(keys), Sampling(every_nth=every_nth))
    plans = plan_segments(frames, segment_frames=segment_frames)
    covered = [sample for plan in plans for sample in range(plan.first_sample, plan.last_sample + 1)]
    assert covered == list(range(len(frames)))
    assert [plan.number for plan in plans] == list(range(len(plans)))
    assert all(plan.frame_count <= segment_frames for plan in plans)


@given(keys=key_flags, segment_frames=st.integers(1, 80))
def test_an_entry_is_the_last_key_frame_not_behind_the_segments_first_frame(
    keys: list[bool], segment_frames: int
) -> None:
    frames = SampledFrames.of(index_with_keys(keys), Sampling())
    key_pts = frames.index.pts[frames.index.is_key]
    for plan in plan_segments(frames, segment_frames=segment_frames):
        first_pts = frames.index.pts[plan.first_sample]
        before = key_pts[key_pts <= first_pts]
        if plan.entry_pts is None:
            assert plan.number == 0 or len(before) <= 1
        else:
            assert plan.entry_pts == before[-1]


def test_the_first_segment_is_short_so_that_watchers_see_something_soon() -> None:
    plans = plan_segments(frames_with_key_every(10, total=100), segment_frames=64)
    assert plans[0].frame_count == FIRST_SEGMENT_FRAMES
    assert plans[1].frame_count == 64


def test_segment_0_starts_with_the_file() -> None:
    frames = SampledFrames.of(index_with_keys([i % 10 == 0 for i in range(100)]), Sampling(start_ms=2000))
    assert plan_segments(frames, segment_frames=64)[0].entry_pts is None


def test_a_file_without_time_stamps_is_never_entered_in_the_middle() -> None:
    frames = SampledFrames.of(index_with_keys([True] * 50, is_timed=False), Sampling())
    assert all(plan.entry_pts is None for plan in plan_segments(frames, segment_frames=8))


def test_no_frames_make_no_segments() -> None:
    frames = SampledFrames.of(index_with_keys([True] * 5), Sampling(start_ms=10_000))
    assert plan_segments(frames, segment_frames=8) == ()


def test_earlier_entries_double_their_distance_and_leave_the_start_out() -> None:
    index = index_with_keys([True] * 20)
    assert earlier_entries(index, 19 * 40) == tuple(40 * key for key in (18, 17, 15, 11, 3))
    assert earlier_entries(index, 40) == ()
    assert earlier_entries(index, None) == ()


@given(keys=key_flags, segment_frames=st.integers(1, 80), every_nth=st.integers(1, 60))
def test_a_short_cut_leaves_out_no_sampled_frame_and_enough_others(
    keys: list[bool], segment_frames: int, every_nth: int
) -> None:
    frames = SampledFrames.of(index_with_keys(keys), Sampling(every_nth=every_nth))
    sampled = set(frames.positions.tolist())
    for plan in plan_segments(frames, segment_frames=segment_frames):
        cuts = np.searchsorted(frames.index.pts, short_cuts(frames, plan)).tolist()
        assert cuts == sorted(set(cuts))
        for cut in cuts:
            assert keys[cut]
            assert not sampled & set(range(cut - SHORTEST_CUT_FRAMES, cut))


def test_a_short_cut_leads_to_the_last_key_frame_before_a_sampled_one() -> None:
    frames = SampledFrames.of(index_with_keys([i % 10 == 0 for i in range(100)]), Sampling(every_nth=25))
    (plan,) = plan_segments(frames, segment_frames=64)
    assert short_cuts(frames, plan).tolist() == [40 * key for key in (20, 50, 70)]


def test_the_first_segment_has_a_short_cut_to_where_sampling_starts() -> None:
    frames = SampledFrames.of(index_with_keys([i % 10 == 0 for i in range(100)]), Sampling(start_ms=2000))
    lead, rest = plan_segments(frames, segment_frames=64)
    assert short_cuts(frames, lead).tolist() == [2000]
    assert short_cuts(frames, rest).tolist() == []


def test_a_file_without_time_stamps_has_no_short_cuts() -> None:
    frames = SampledFrames.of(index_with_keys([True] * 50, is_timed=False), Sampling(every_nth=20))
    assert all(len(short_cuts(frames, plan)) == 0 for plan in plan_segments(frames, segment_frames=8))
