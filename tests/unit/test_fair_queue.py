"""Start-time fair queueing: who gets the next segment."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.fair_queue import Contender, charged, fairest_first, joining

WEIGHTS = st.integers(1, 100)
SEGMENT_FRAMES = st.integers(1, 512)
RUNS = st.lists(st.tuples(WEIGHTS, SEGMENT_FRAMES), min_size=1, max_size=6)


def serve(contenders: list[Contender], frames: dict[str, int]) -> tuple[list[Contender], str]:
    """Give the fairest one a segment of its run's length."""
    chosen = fairest_first(contenders)[0]
    after = replace(chosen, virtual_time=charged(chosen, frames[chosen.run_id]))
    return [after if each is chosen else each for each in contenders], chosen.run_id


def contenders_of(runs: list[tuple[int, int]]) -> tuple[list[Contender], dict[str, int]]:
    contenders = [Contender(f"run_{number}", 0.0, weight) for number, (weight, _) in enumerate(runs)]
    return contenders, {f"run_{number}": frames for number, (_, frames) in enumerate(runs)}


@given(runs=RUNS)
def test_nobody_starves(runs: list[tuple[int, int]]) -> None:
    contenders, frames = contenders_of(runs)
    # While the lightest run waits for its second turn, the others advance by at most its own charge and one segment.
    charge = max(segment / weight for weight, segment in runs)
    bound = sum(int(charge * weight / segment) + 2 for weight, segment in runs)
    served: Counter[str] = Counter()
    for _ in range(2 * bound):
        contenders, run_id = serve(contenders, frames)
        served[run_id] += 1
    assert all(served[contender.run_id] >= 2 for contender in contenders)


@given(runs=RUNS, steps=st.integers(1, 400))
def test_service_is_proportional_to_weight_give_or_take_a_segment_each(runs: list[tuple[int, int]], steps: int) -> None:
    contenders, frames = contenders_of(runs)
    for _ in range(steps):
        contenders, _ = serve(contenders, frames)
    for one in contenders:
        for other in contenders:
            allowed = frames[one.run_id] / one.weight + frames[other.run_id] / other.weight
            assert abs(one.virtual_time - other.virtual_time) <= allowed + 1e-6


@given(at_work=st.lists(st.floats(0, 1e9), min_size=1), own=st.floats(0, 1e9))
def test_a_newcomer_joins_at_the_smallest_virtual_time_at_work(at_work: list[float], own: float) -> None:
    assert joining(own, at_work) == min(at_work)


@given(own=st.floats(0, 1e9))
def test_a_run_alone_keeps_its_own_time(own: float) -> None:
    assert joining(own, []) == own


@given(runs=RUNS, head_start=st.integers(0, 200), weight=WEIGHTS, segment=SEGMENT_FRAMES)
def test_a_newcomer_is_served_without_waiting_and_gets_no_more_than_its_share(
    runs: list[tuple[int, int]], head_start: int, weight: int, segment: int
) -> None:
    contenders, frames = contenders_of(runs)
    for _ in range(head_start):
        contenders, _ = serve(contenders, frames)
    newcomer = Contender("new", joining(0.0, [each.virtual_time for each in contenders]), weight)
    frames["new"] = segment
    contenders.append(newcomer)
    # Only those that stand exactly where it joins may come before it.
    tied = sum(each.virtual_time == newcomer.virtual_time for each in contenders)
    order = []
    for _ in range(tied):
        contenders, run_id = serve(contenders, frames)
        order.append(run_id)
    assert "new" in order


def test_those_with_equal_times_keep_their_order() -> None:
    contenders = [Contender("b", 1.0, 5), Contender("a", 1.0, 99), Contender("c", 0.5, 1)]
    assert [each.run_id for each in fairest_first(contenders)] == ["c", "b", "a"]


@pytest.mark.parametrize(("weight", "expected"), [(1, 74.0), (100, 10.64)])
def test_a_heavier_run_pays_less_for_a_segment(weight: int, expected: float) -> None:
    assert charged(Contender("a", 10.0, weight), 64) == pytest.approx(expected)
