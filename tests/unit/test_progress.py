from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.progress import (
    MOST_RUNS,
    MOST_SHARES_A_RUN,
    SHARE_LIFETIME_S,
    ProgressShare,
    RunMeter,
    ShareBoard,
    Told,
    combined,
)
from orchestrator.core.records import Progress
from orchestrator.core.rendering import percent_of


def meter(*, frames_total: int = 100) -> RunMeter:
    return RunMeter(
        run_id="run_1", frames_total=frames_total, frames_committed=0, source_fps=25.0, frames_per_sample=1.0
    )


def alone(run: RunMeter) -> Progress:
    """What a process that works alone shows."""
    return combined(run.run_id, [run.share("worker", now_s=0.0)], stage="inferring")


def share(worker_id: str = "worker", run_id: str = "run_1", **numbers: object) -> ProgressShare:
    fields = {
        "frames_total": 100,
        "frames_committed": 0,
        "frames_open": 0,
        "fps": None,
        "video_s_a_frame": None,
        "told_s": 0.0,
        **numbers,
    }
    return ProgressShare(worker_id=worker_id, run_id=run_id, **fields)  # type: ignore[arg-type]  # as the caller names them


def progress(frames_done: int, *, fps: float | None = 10.0) -> Progress:
    return combined("run_1", [share(frames_open=frames_done, fps=fps)], stage="inferring")


def test_open_and_committed_frames_are_counted_once() -> None:
    run = meter()
    run.infer(0, 8, now_s=0.0)
    run.infer(1, 4, now_s=1.0)
    run.commit(0, 8)
    assert alone(run).frames_done == 12


def test_frames_of_a_segment_given_up_are_not_done() -> None:
    run = meter()
    run.infer(3, 20, now_s=0.0)
    run.give_up(3)
    assert alone(run).frames_done == 0


def test_speed_eta_and_realtime_factor_follow_from_the_marks() -> None:
    run = meter()
    run.infer(0, 10, now_s=0.0)
    run.infer(0, 50, now_s=1.0)
    told = alone(run)
    assert told.fps == 50
    assert told.eta_s == 40 / 50
    assert told.realtime_factor == 2.0


def test_a_sampled_run_moves_faster_through_the_video_than_through_its_frames() -> None:
    run = RunMeter(run_id="r", frames_total=20, frames_committed=0, source_fps=25.0, frames_per_sample=5.0)
    run.infer(0, 1, now_s=0.0)
    run.infer(0, 5, now_s=1.0)
    assert alone(run).realtime_factor == 1.0


def test_speed_forgets_what_is_long_past() -> None:
    run = meter(frames_total=10_000)
    for second in range(60):
        run.infer(0, 1 if second < 30 else 10, now_s=float(second))
    assert alone(run).fps == 10


def test_nothing_is_claimed_before_anything_was_measured() -> None:
    told = alone(meter())
    assert (told.fps, told.eta_s, told.realtime_factor) == (None, None, None)


@given(done=st.integers(0, 10**7), total=st.integers(1, 10**7))
def test_100_percent_means_all_frames_and_nothing_less(done: int, total: int) -> None:
    percent = percent_of(min(done, total), total)
    assert percent is not None
    assert (percent == 100.0) == (done >= total)


def test_percent_is_unknown_before_the_total_is() -> None:
    assert percent_of(0, None) is None


@st.composite
def possible_shares(draw: st.DrawFn) -> list[ProgressShare]:
    """Of one run, each of another process."""
    total = draw(st.integers(1, 1000))
    speeds = st.none() | st.floats(0, 1000)
    return [
        share(
            f"worker_{number}",
            frames_total=total,
            frames_committed=draw(st.integers(0, total)),
            frames_open=draw(st.integers(0, total)),
            fps=draw(speeds),
            video_s_a_frame=draw(st.none() | st.just(0.04)),
        )
        for number in range(draw(st.integers(1, 5)))
    ]


@given(shares=possible_shares(), committed=st.integers(0, 1000))
def test_shares_add_up_to_no_more_than_all_and_no_less_than_is_committed(
    shares: list[ProgressShare], committed: int
) -> None:
    total = shares[0].frames_total
    committed = min(committed, total)
    told = combined("run_1", shares, stage="inferring", frames_committed=committed)
    known = max(committed, *(each.frames_committed for each in shares))
    assert known <= told.frames_done <= total
    assert told.fps == (pytest.approx(sum(each.fps or 0 for each in shares)) if told.fps else None)
    if told.fps:
        assert told.eta_s == pytest.approx((total - told.frames_done) / told.fps)


@given(shares=possible_shares())
def test_the_order_of_shares_changes_nothing(shares: list[ProgressShare]) -> None:
    one, other = (combined("run_1", each, stage="inferring") for each in (shares, shares[::-1]))
    assert other.frames_done == one.frames_done
    assert other.fps == pytest.approx(one.fps)
    assert other.eta_s == pytest.approx(one.eta_s)


@given(frames=st.lists(st.integers(0, 100), min_size=1), fps=st.none() | st.floats(1, 100))
def test_what_is_told_never_goes_back_and_is_never_told_twice_in_a_row(frames: list[int], fps: float | None) -> None:
    told = Told()
    news = [told.next(progress(number, fps=fps), job_id="job_1", attempt=1) for number in frames]
    counts = [each.frames_done for each in news if each is not None]
    assert counts == sorted(set(counts))
    assert counts[-1] == max(frames)


def test_told_again_with_more_frames_the_time_left_fits_them() -> None:
    told = Told()
    told.next(progress(80), job_id="job_1", attempt=1)
    news = told.next(progress(60, fps=5.0), job_id="job_1", attempt=1)
    assert news is not None
    assert (news.frames_done, news.eta_s) == (80, 20 / 5)


def test_attempts_and_jobs_are_told_apart_and_old_ones_forgotten() -> None:
    told = Told()
    told.next(progress(80), job_id="job_1", attempt=1)
    assert told.next(progress(10), job_id="job_1", attempt=2) == progress(10)
    assert told.next(progress(20), job_id="job_2", attempt=1) == progress(20)
    for number in range(MOST_RUNS):
        told.next(progress(1), job_id=f"job_later_{number}", attempt=1)
    assert told.next(progress(5), job_id="job_1", attempt=1) == progress(5)


def test_a_board_keeps_the_newest_share_of_each_process_until_it_is_silent_for_long() -> None:
    board = ShareBoard()
    assert board.put(share("a", frames_open=2, told_s=2.0), now_s=0.0)
    assert not board.put(share("a", frames_open=1, told_s=1.0), now_s=1.0)
    assert board.put(share("b", frames_open=3, told_s=0.5), now_s=10.0)
    assert [each.frames_open for each in board.of_run("run_1", now_s=SHARE_LIFETIME_S)] == [2, 3]
    assert [each.frames_open for each in board.of_run("run_1", now_s=SHARE_LIFETIME_S + 1)] == [3]
    assert board.of_run("run_1", now_s=SHARE_LIFETIME_S + 11) == []
    assert board.of_run("run_2", now_s=0.0) == []


def test_a_board_is_bounded_in_runs_and_in_processes() -> None:
    board = ShareBoard()
    for number in range(2 * MOST_SHARES_A_RUN):
        board.put(share(f"worker_{number}"), now_s=0.0)
    workers = [each.worker_id for each in board.of_run("run_1", now_s=0.0)]
    assert workers == [f"worker_{number}" for number in range(MOST_SHARES_A_RUN, 2 * MOST_SHARES_A_RUN)]
    for number in range(MOST_RUNS):
        board.put(share(run_id=f"run_later_{number}"), now_s=0.0)
    assert board.of_run("run_1", now_s=0.0) == []
    assert board.of_run("run_later_0", now_s=0.0)


@pytest.mark.parametrize(
    "impossible",
    [
        {"frames_committed": 101},
        {"frames_committed": -1},
        {"frames_open": -1},
        {"frames_total": 10**30},
        {"fps": -1.0},
        {"video_s_a_frame": -1.0},
    ],
    ids=str,
)
def test_a_share_of_impossible_numbers_is_none(impossible: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        share(**impossible)


SEGMENT_FRAMES = 10
SEGMENTS = 6


@dataclass
class Crew:
    """Workers on one run, some of whom die, and what a follower far away is told of them.

    Each tells at once of what it does. Nobody knows more than it was told: by the database, at a lease and at a commit.
    """

    meters: dict[str, RunMeter] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=lambda: list(range(SEGMENTS)))
    committed: int = 0
    board: ShareBoard = field(default_factory=ShareBoard)
    follower: Told = field(default_factory=Told)
    told: list[int] = field(default_factory=list)
    now_s: float = 0.0

    def step(self, worker: str) -> None:
        """Take a segment, infer some of it, or commit it, whatever is next."""
        run = self.meters.setdefault(worker, meter(frames_total=SEGMENTS * SEGMENT_FRAMES))
        if worker not in self.held:
            if not self.free:
                return
            self.held[worker] = self.free.pop(0)
            run.see_committed(self.committed)
        elif run.frames_open.get(self.held[worker], 0) < SEGMENT_FRAMES:
            run.infer(self.held[worker], 5, now_s=self.now_s)
        else:
            self.committed += SEGMENT_FRAMES
            run.commit(self.held.pop(worker), self.committed)
        self.board.put(run.share(worker, now_s=self.now_s), now_s=self.now_s)

    def die(self, worker: str) -> None:
        """Without a word; its segment is given to another once its lease is over."""
        self.meters.pop(worker, None)
        if worker in self.held:
            self.free.append(self.held.pop(worker))

    def shown(self) -> Progress:
        shares = self.board.of_run("run_1", now_s=self.now_s)
        return combined(
            "run_1",
            shares,
            stage="inferring",
            frames_total=SEGMENTS * SEGMENT_FRAMES,
            frames_committed=self.committed,
        )

    def follow(self) -> None:
        if news := self.follower.next(self.shown(), job_id="job_1", attempt=1):
            self.told.append(news.frames_done)


@given(steps=st.lists(st.sampled_from("abc"), max_size=100))
def test_what_living_workers_tell_adds_up_exactly(steps: list[str]) -> None:
    crew = Crew()
    for worker in steps:
        crew.step(worker)
        open_frames = sum(sum(each.frames_open.values()) for each in crew.meters.values())
        assert crew.shown().frames_done == crew.committed + open_frames


@given(
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["works", "works", "works", "dies"]))),
    pause_s=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_whoever_dies_a_follower_is_told_of_progress_up_to_all_and_never_back(
    steps: list[tuple[str, str]], pause_s: float
) -> None:
    crew = Crew()
    for number, (worker, fate) in enumerate(steps):
        crew.now_s += pause_s
        if fate == "dies":
            crew.die(worker)
        else:
            crew.step(f"{worker}{number // 20}")
        crew.follow()
    while crew.committed < SEGMENTS * SEGMENT_FRAMES:
        for worker in [*crew.held]:
            crew.die(worker)
        crew.step("last")
        while "last" in crew.held:
            crew.step("last")
        crew.follow()
    assert crew.told == sorted(crew.told)
    assert crew.told[-1] == SEGMENTS * SEGMENT_FRAMES
