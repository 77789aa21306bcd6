"""By what batches choose between servers."""

from __future__ import annotations

import pytest

from orchestrator.inference.server_load import Load


def test_a_server_that_failed_rests_longer_each_time_and_at_most_half_a_minute() -> None:
    load, now_s, rests_s = Load(), 100.0, []
    for _ in range(7):
        load.note_failure(now_s)
        rests_s.append(load.rests_until_s - now_s)
        now_s = load.rests_until_s
    assert rests_s == [1, 2, 4, 8, 16, 30, 30]


def test_failures_of_one_moment_count_once() -> None:
    load = Load()
    assert [load.note_failure(5.0) for _ in range(8)] == [True] + [False] * 7
    assert (load.failures, load.rests_until_s) == (1, 6.0)


def test_after_its_rest_it_gets_one_batch_until_it_answers() -> None:
    load = Load()
    assert not load.is_doubtful(0.0)
    load.note_failure(0.0)
    assert load.is_doubtful(0.5)
    assert not load.is_doubtful(1.0)
    with load.carrying(4):
        assert load.is_doubtful(1.0)
        assert not load.is_resting(1.0)
        assert load.note_answer()
        assert not load.is_doubtful(1.0)
    assert (load.frames, load.note_answer()) == (0, False)


def test_a_batch_that_fails_is_no_longer_carried() -> None:
    load = Load()
    with pytest.raises(LookupError), load.carrying(4):
        raise LookupError
    assert load.frames == 0
