from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.progress import RunMeter
from orchestrator.core.rendering import percent_of


def meter(*, frames_total: int = 100) -> RunMeter:
    return RunMeter(
        run_id="run_1", frames_total=frames_total, frames_committed=0, source_fps=25.0, frames_per_sample=1.0
    )


def test_open_and_committed_frames_are_counted_once() -> None:
    run = meter()
    run.infer(0, 8, now_s=0.0)
    run.infer(1, 4, now_s=1.0)
    run.commit(0, 8)
    assert run.snapshot("inferring").frames_done == 12


def test_frames_of_a_segment_given_up_are_not_done() -> None:
    run = meter()
    run.infer(3, 20, now_s=0.0)
    run.give_up(3)
    assert run.snapshot("inferring").frames_done == 0


def test_speed_eta_and_realtime_factor_follow_from_the_marks() -> None:
    run = meter()
    run.infer(0, 10, now_s=0.0)
    run.infer(0, 50, now_s=1.0)
    told = run.snapshot("inferring")
    assert told.fps == 50
    assert told.eta_s == 40 / 50
    assert told.realtime_factor == 2.0


def test_a_sampled_run_moves_faster_through_the_video_than_through_its_frames() -> None:
    run = RunMeter(run_id="r", frames_total=20, frames_committed=0, source_fps=25.0, frames_per_sample=5.0)
    run.infer(0, 1, now_s=0.0)
    run.infer(0, 5, now_s=1.0)
    assert run.snapshot("inferring").realtime_factor == 1.0


def test_speed_forgets_what_is_long_past() -> None:
    run = meter(frames_total=10_000)
    for second in range(60):
        run.infer(0, 1 if second < 30 else 10, now_s=float(second))
    assert run.snapshot("inferring").fps == 10


def test_nothing_is_claimed_before_anything_was_measured() -> None:
    told = meter().snapshot("planning")
    assert (told.fps, told.eta_s, told.realtime_factor) == (None, None, None)


@given(done=st.integers(0, 10**7), total=st.integers(1, 10**7))
def test_100_percent_means_all_frames_and_nothing_less(done: int, total: int) -> None:
    percent = percent_of(min(done, total), total)
    assert percent is not None
    assert (percent == 100.0) == (done >= total)


def test_percent_is_unknown_before_the_total_is() -> None:
    assert percent_of(0, None) is None
