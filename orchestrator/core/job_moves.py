"""What a move of a job changes in the job, and which events tell of it. Pure: the time is passed in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from orchestrator.core.records import EventKind, Failure, Job, JsonValue, Run, SegmentResult
from orchestrator.core.states import NEXT_JOB_STATES, NEXT_RUN_STATES, JobState, RunState, moved
from orchestrator.core.types import JobSpec, SegmentPlan
from orchestrator.errors import TransitionError

EventDraft = tuple[EventKind, dict[str, JsonValue]]


def queued_job(spec: JobSpec, *, job_id: str, owner: str, run_id: str, video_id: str, now: datetime) -> Job:
    """The job that a submit makes."""
    return Job(
        id=job_id,
        owner=owner,
        run_id=run_id,
        video_id=video_id,
        state=JobState.QUEUED,
        view=spec.view,
        priority=spec.priority,
        timeout_s=spec.timeout_s,
        tags=spec.tags,
        created_at=now,
    )


def moved_job(job: Job, state: JobState, *, now: datetime, failure: Failure | None = None) -> Job:
    """The job in its next state, with the times that belong to it. Raises TransitionError.

    Queued again, it begins anew as its next attempt.
    """
    state = moved(NEXT_JOB_STATES, job.state, state)
    if state is JobState.QUEUED:
        job = replace(job, attempt=job.attempt + 1, started_at=None)
    has_started = state in (JobState.RUNNING, JobState.SUCCEEDED)
    return replace(
        job,
        state=state,
        started_at=job.started_at or (now if has_started else None),
        finished_at=now if state.is_terminal else None,
        failure=failure,
    )


def check_retriable(job: Job) -> None:
    """Raises TransitionError unless the job has failed or was cancelled."""
    if JobState.QUEUED not in NEXT_JOB_STATES[job.state]:
        raise TransitionError(
            f"job {job.id} is {job.state.value}; only one that has failed or was cancelled can be retried"
        )


def reopened_run(run: Run) -> Run | None:
    """A FAILED run, OPEN to go on where it stopped; None where nothing in it is worth it.

    A run all of whose segments are done has no work left that could end otherwise, and may have lost its results.
    """
    if run.segments_total is None or run.segments_done == run.segments_total or not run.ledger.inferred:
        return None
    state = moved(NEXT_RUN_STATES, run.state, RunState.OPEN)
    return replace(run, state=state, waiting=None, failure=None, finished_at=None)


def state_after_failed_run(job: Job) -> JobState:
    """A job that was being cancelled got what it asked for; the others failed."""
    return JobState.CANCELLED if job.state is JobState.CANCELLING else JobState.FAILED


def events_of(job: Job, run: Run) -> list[EventDraft]:
    """The events that tell of the state the job is in now: `state`, and `done` when it is the last one."""
    state: dict[str, JsonValue] = {"job_id": job.id, "state": job.state.value, "attempt": job.attempt}
    if job.failure is not None:
        state["reason"] = job.failure.code
    if not job.state.is_terminal:
        return [(EventKind.STATE, state)]
    error: JsonValue = {"code": job.failure.code, "message": job.failure.message} if job.failure else None
    done: dict[str, JsonValue] = {
        "job_id": job.id,
        "state": job.state.value,
        "error": error,
        "frames_done": run.ledger.settled,
        "frames_total": run.frames_total,
    }
    return [(EventKind.STATE, state), (EventKind.DONE, done)]


def segment_event(run: Run, plan: SegmentPlan, result: SegmentResult) -> EventDraft:
    """The event of a committed segment. run: as it is after the commit."""
    first_frame, last_frame = frame_span(result)
    return EventKind.SEGMENT, {
        "segment": plan.number,
        "first_frame": first_frame,
        "last_frame": last_frame,
        "frames": plan.frame_count,
        "inferred": len(result.stamps),
        "failed": len(result.report.failed),
        "candidates": len(result.candidates),
        "frames_done": run.ledger.settled,
        "frames_total": run.frames_total,
    }


def frame_span(result: SegmentResult) -> tuple[int, int]:
    """Source indices of the segment's first and last sampled frame, failed ones included."""
    indices = [stamp.index for stamp in result.stamps] + [stamp.index for stamp, _ in result.report.failed]
    return min(indices), max(indices)
