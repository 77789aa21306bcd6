from __future__ import annotations

import itertools

import pytest

from orchestrator.core.states import (
    LIVE_JOB_STATES,
    NEXT_JOB_STATES,
    NEXT_RUN_STATES,
    NEXT_SEGMENT_STATES,
    TERMINAL_JOB_STATES,
    JobState,
    RunState,
    SegmentState,
    moved,
)
from orchestrator.errors import TransitionError


@pytest.mark.parametrize(("now", "then"), list(itertools.product(JobState, JobState)))
def test_a_job_moves_as_the_table_says_and_not_otherwise(now: JobState, then: JobState) -> None:
    if then in NEXT_JOB_STATES[now]:
        assert moved(NEXT_JOB_STATES, now, then) is then
    else:
        with pytest.raises(TransitionError, match=f"{then.value} cannot follow {now.value}"):
            moved(NEXT_JOB_STATES, now, then)


def test_every_state_has_a_row_in_its_table() -> None:
    assert set(NEXT_JOB_STATES) == set(JobState)
    assert set(NEXT_RUN_STATES) == set(RunState)
    assert set(NEXT_SEGMENT_STATES) == set(SegmentState)


def test_a_job_is_either_live_or_terminal() -> None:
    assert set(JobState) == LIVE_JOB_STATES | TERMINAL_JOB_STATES
    assert not LIVE_JOB_STATES & TERMINAL_JOB_STATES


def test_every_live_job_can_reach_an_end() -> None:
    reachable = set(TERMINAL_JOB_STATES)
    for _ in JobState:
        reachable |= {state for state, following in NEXT_JOB_STATES.items() if following & reachable}
    assert reachable >= LIVE_JOB_STATES


def test_only_a_job_that_ended_without_success_is_queued_again() -> None:
    retriable = {state for state, following in NEXT_JOB_STATES.items() if JobState.QUEUED in following}
    assert retriable == {JobState.FAILED, JobState.CANCELLED}


def test_a_committed_segment_never_moves_again() -> None:
    assert NEXT_SEGMENT_STATES[SegmentState.DONE] == frozenset()
