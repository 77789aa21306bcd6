"""How far runs are, and how fast. Pure: the time is passed in.

Several processes may work on one run. Each knows which frames it has inferred and not committed yet, and its own speed:
its share. Whoever shows the run adds up the newest share of each process.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from orchestrator.core.records import Progress

# Speed is an average over this window: long enough to be calm, short enough to notice a stall.
SPEED_WINDOW_S: Final = 10.0
# A process tells of every batch. One that is silent for so long may be dead; it does not count until it is heard again.
SHARE_LIFETIME_S: Final = 15.0
# Of a board and of what a follower was told: far more than run at once, so that nothing grows without end.
MOST_RUNS: Final = 1000
MOST_SHARES_A_RUN: Final = 250
# Of one run: what no video has, so that a number that somebody made up breaks no sum.
MOST_FRAMES: Final = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressShare:
    """What one process knows of a run that it works on. Raises ValueError for numbers that cannot be.

    worker_id: of the process, another one after each start. frames_committed: of the whole run, as the database last
    told this process. frames_open: inferred here, in segments that are not committed yet. fps: of this process.
    video_s_a_frame: seconds of video that a sampled frame stands for; None where the video's rate is unknown.
    told_s: when, by a clock of the process's own; it orders the shares of one process and means nothing to others.
    """

    worker_id: str
    run_id: str
    frames_total: int
    frames_committed: int
    frames_open: int
    fps: float | None
    video_s_a_frame: float | None
    told_s: float

    def __post_init__(self) -> None:
        is_possible = 0 <= self.frames_committed <= self.frames_total <= MOST_FRAMES
        if not is_possible or not 0 <= self.frames_open <= MOST_FRAMES:
            raise ValueError(f"{self.frames_committed} + {self.frames_open} of {self.frames_total} frames cannot be")
        if (self.fps or 0) < 0 or (self.video_s_a_frame or 0) < 0:
            raise ValueError(f"{self.fps} frames/s of {self.video_s_a_frame} s each cannot be")


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
        self.see_committed(frames_committed)

    def see_committed(self, frames: int) -> None:
        """The database tells how many frames of the run are committed, whoever did it."""
        self.frames_committed = max(self.frames_committed, frames)

    def give_up(self, segment: int) -> None:
        self.frames_open.pop(segment, None)

    def share(self, worker_id: str, *, now_s: float) -> ProgressShare:
        return ProgressShare(
            worker_id=worker_id,
            run_id=self.run_id,
            frames_total=self.frames_total,
            frames_committed=self.frames_committed,
            frames_open=sum(self.frames_open.values()),
            fps=self._frames_a_second(),
            video_s_a_frame=self.frames_per_sample / self.source_fps if self.source_fps else None,
            told_s=now_s,
        )

    def _frames_a_second(self) -> float | None:
        if len(self._marks) < 2:
            return None
        (from_s, from_frames), (to_s, to_frames) = self._marks[0], self._marks[-1]
        return (to_frames - from_frames) / (to_s - from_s) if to_s > from_s else None


def combined(
    run_id: str,
    shares: Sequence[ProgressShare],
    *,
    stage: str,
    frames_total: int | None = None,
    frames_committed: int = 0,
) -> Progress:
    """A run's progress from the newest share of each process, and from what its row tells.

    frames_total: of a run that nobody has a share of; None while it is not planned. frames_committed: of the row, which
    is what is done at least. Open frames are not added to it, since it may count them as committed already.
    """
    total = shares[0].frames_total if shares else frames_total
    known, still_open, fps, factor = 0, 0, 0.0, 0.0
    for share in shares:
        known = max(known, share.frames_committed)
        still_open += share.frames_open
        if share.fps:
            fps += share.fps
            factor += share.fps * (share.video_s_a_frame or 0.0)
    done = max(frames_committed, known + still_open)
    if total is not None:
        done = min(done, total)
    return Progress(
        run_id=run_id,
        frames_done=done,
        frames_total=total,
        fps=fps or None,
        realtime_factor=factor or None,
        eta_s=_eta_s(done, total, fps),
        stage=stage,
    )


def _eta_s(frames_done: int, frames_total: int | None, fps: float | None) -> float | None:
    """None where it cannot be known."""
    if frames_total is None:
        return None
    left = frames_total - frames_done
    return left / fps if fps else (0.0 if left == 0 else None)


class ShareBoard:
    """The newest share of each process, by run. Bounded: what was not heard of for longest goes first."""

    def __init__(self) -> None:
        self._by_run: OrderedDict[str, OrderedDict[str, _Heard]] = OrderedDict()

    def put(self, share: ProgressShare, *, now_s: float) -> bool:
        """Keep it; False, if a later one of the same process is known."""
        heard = self._by_run.setdefault(share.run_id, OrderedDict())
        known = heard.get(share.worker_id)
        if known is not None and share.told_s < known.share.told_s:
            return False
        heard[share.worker_id] = _Heard(share, now_s)
        heard.move_to_end(share.worker_id)
        self._by_run.move_to_end(share.run_id)
        while len(heard) > MOST_SHARES_A_RUN:
            heard.popitem(last=False)
        self._forget_old_runs(now_s)
        return True

    def of_run(self, run_id: str, *, now_s: float) -> list[ProgressShare]:
        """The shares of those heard of in the last `SHARE_LIFETIME_S`."""
        if (heard := self._by_run.get(run_id)) is None:
            return []
        return [each.share for each in heard.values() if each.is_fresh(now_s)]

    def _forget_old_runs(self, now_s: float) -> None:
        while len(self._by_run) > MOST_RUNS or not self._is_fresh(next(iter(self._by_run)), now_s):
            self._by_run.popitem(last=False)

    def _is_fresh(self, run_id: str, now_s: float) -> bool:
        newest = next(reversed(self._by_run[run_id].values()))
        return newest.is_fresh(now_s)


@dataclass(frozen=True, slots=True)
class _Heard:
    share: ProgressShare
    heard_s: float

    def is_fresh(self, now_s: float) -> bool:
        return now_s - self.heard_s <= SHARE_LIFETIME_S


@dataclass(slots=True)
class Told:
    """What one follower was told of each attempt of a job: never fewer frames than before, and nothing twice.

    Frames go back where a process dies with its open segments; they are inferred again, which is nobody's news.
    """

    _last: OrderedDict[tuple[str, int], Progress] = field(default_factory=OrderedDict)

    def next(self, progress: Progress, *, job_id: str, attempt: int) -> Progress | None:
        """What to tell now; None if it is what was told last."""
        key = (job_id, attempt)
        last = self._last.get(key)
        if last is not None and last.frames_done > progress.frames_done:
            done = min(last.frames_done, progress.frames_total or last.frames_done)
            progress = replace(progress, frames_done=done, eta_s=_eta_s(done, progress.frames_total, progress.fps))
        if progress == last:
            return None
        self._last[key] = progress
        self._last.move_to_end(key)
        while len(self._last) > MOST_RUNS:
            self._last.popitem(last=False)
        return progress
