"""What a move of a job changes, walked along the table of its states."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from orchestrator.core.job_moves import check_retriable, events_of, moved_job, reopened_run, state_after_failed_run
from orchestrator.core.records import EventKind, Failure, Job, Run
from orchestrator.core.states import LIVE_JOB_STATES, NEXT_JOB_STATES, JobState, RunState
from orchestrator.core.types import Ledger, RunSpec, Sampling, View
from orchestrator.errors import TransitionError
from orchestrator.testing.fake_model import served_model

SUBMITTED = datetime(2026, 1, 1, tzinfo=UTC)
NOW = SUBMITTED + timedelta(seconds=5)
FAILURE = Failure(code="video_unreadable", message="no demuxer opens it")
MODEL = served_model()
RUN = Run(
    id="run_1",
    spec=RunSpec("a" * 64, MODEL.version, Sampling()),
    card=MODEL.card,
    video_id="vid_1",
    state=RunState.OPEN,
    created_at=SUBMITTED,
    frames_total=10,
    ledger=Ledger(planned=5, inferred=3, failed=2, reasons={"frame_corrupt": 2}),
)


def job_in(state: JobState) -> Job:
    return Job(
        id="job_1",
        owner="ann",
        run_id=RUN.id,
        video_id="vid_1",
        state=state,
        view=View(),
        priority=50,
        timeout_s=None,
        tags=(),
        created_at=SUBMITTED,
    )


@pytest.mark.parametrize(("now", "then"), list(product(JobState, JobState)))
def test_a_job_moves_as_the_table_says_and_no_other_way(now: JobState, then: JobState) -> None:
    if then not in NEXT_JOB_STATES[now]:
        with pytest.raises(TransitionError):
            moved_job(job_in(now), then, now=NOW)
        return
    job = moved_job(job_in(now), then, now=NOW)
    assert job.state is then
    assert (job.finished_at == NOW) == then.is_terminal
    assert (job.started_at == NOW) == (then in (JobState.RUNNING, JobState.SUCCEEDED))


def test_a_job_starts_once() -> None:
    running = moved_job(job_in(JobState.QUEUED), JobState.RUNNING, now=NOW)
    done = moved_job(running, JobState.SUCCEEDED, now=NOW + timedelta(seconds=1))
    assert (done.started_at, done.finished_at) == (NOW, NOW + timedelta(seconds=1))


@pytest.mark.parametrize("state", sorted(LIVE_JOB_STATES | {JobState.SUCCEEDED}))
def test_a_job_that_did_not_end_badly_cannot_be_retried(state: JobState) -> None:
    with pytest.raises(TransitionError, match=f"is {state.value};"):
        check_retriable(job_in(state))


def test_a_retried_job_begins_anew_as_its_next_attempt() -> None:
    running = moved_job(job_in(JobState.QUEUED), JobState.RUNNING, now=NOW)
    failed = moved_job(running, JobState.FAILED, now=NOW, failure=FAILURE)
    check_retriable(failed)
    queued = moved_job(failed, JobState.QUEUED, now=NOW)
    assert queued == replace(job_in(JobState.QUEUED), attempt=2)
    later = NOW + timedelta(seconds=9)
    assert moved_job(queued, JobState.RUNNING, now=later).started_at == later


FAILED_RUN = replace(RUN, state=RunState.FAILED, segments_total=3, segments_done=1, failure=FAILURE, finished_at=NOW)


def test_a_failed_run_with_work_left_and_something_to_keep_goes_on() -> None:
    assert reopened_run(FAILED_RUN) == replace(FAILED_RUN, state=RunState.OPEN, failure=None, finished_at=None)
    for hopeless in (
        replace(FAILED_RUN, segments_total=None, segments_done=0, ledger=Ledger()),
        replace(FAILED_RUN, ledger=Ledger(planned=5, failed=2, reasons={"decoder_crashed": 2})),
        replace(FAILED_RUN, segments_done=3),
    ):
        assert reopened_run(hopeless) is None


@pytest.mark.parametrize("state", JobState)
def test_every_last_state_is_told_twice_as_a_state_and_as_the_end(state: JobState) -> None:
    kinds = [kind for kind, _ in events_of(job_in(state), RUN)]
    assert kinds == ([EventKind.STATE, EventKind.DONE] if state.is_terminal else [EventKind.STATE])


def test_the_end_of_a_failed_job_tells_why_and_how_far_it_came() -> None:
    job = moved_job(job_in(JobState.RUNNING), JobState.FAILED, now=NOW, failure=FAILURE)
    (_, state), (_, done) = events_of(job, RUN)
    assert state == {"job_id": "job_1", "state": "failed", "attempt": 1, "reason": FAILURE.code}
    assert done == {
        "job_id": "job_1",
        "state": "failed",
        "error": {"code": FAILURE.code, "message": FAILURE.message},
        "frames_done": 5,
        "frames_total": 10,
    }


@pytest.mark.parametrize("state", sorted(LIVE_JOB_STATES))
def test_a_failed_run_ends_every_live_job_by_a_legal_move(state: JobState) -> None:
    end = state_after_failed_run(job_in(state))
    assert end is (JobState.CANCELLED if state is JobState.CANCELLING else JobState.FAILED)
    assert moved_job(job_in(state), end, now=NOW).state.is_terminal
