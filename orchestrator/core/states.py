"""The lives of jobs, runs and segments, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

from orchestrator.errors import TransitionError


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_JOB_STATES


class RunState(StrEnum):
    """waiting: for the video's index. open: segments are there to be worked on. finalizing: all are done."""

    WAITING = "waiting"
    OPEN = "open"
    FINALIZING = "finalizing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class SegmentState(StrEnum):
    OPEN = "open"
    LEASED = "leased"
    DONE = "done"


class IndexState(StrEnum):
    """Of a video: its frames are being indexed, are known, or cannot be."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


TERMINAL_JOB_STATES: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
LIVE_JOB_STATES: Final = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING})

# A queued job may succeed or fail at once, when its run was made before or cannot be made. A job that failed or was
# cancelled is queued again by a retry.
NEXT_JOB_STATES: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED, JobState.SUCCEEDED}),
    JobState.RUNNING: frozenset({JobState.CANCELLING, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.SUCCEEDED: frozenset(),
}
NEXT_RUN_STATES: Final[Mapping[RunState, frozenset[RunState]]] = {
    RunState.WAITING: frozenset({RunState.OPEN, RunState.FAILED}),
    RunState.OPEN: frozenset({RunState.FINALIZING, RunState.FAILED}),
    RunState.FINALIZING: frozenset({RunState.SUCCEEDED, RunState.FAILED}),
    # Only when its results were lost from the disk.
    RunState.SUCCEEDED: frozenset({RunState.FAILED}),
    # When a job of it is retried and there are segments left to do.
    RunState.FAILED: frozenset({RunState.OPEN}),
}
NEXT_SEGMENT_STATES: Final[Mapping[SegmentState, frozenset[SegmentState]]] = {
    SegmentState.OPEN: frozenset({SegmentState.LEASED}),
    SegmentState.LEASED: frozenset({SegmentState.OPEN, SegmentState.DONE}),
    SegmentState.DONE: frozenset(),
}

State = TypeVar("State", JobState, RunState, SegmentState)


def moved(table: Mapping[State, frozenset[State]], now: State, then: State) -> State:
    """`then`, if the table lets it follow `now`. Raises TransitionError."""
    if then not in table[now]:
        raise TransitionError(f"{then.value} cannot follow {now.value}")
    return then
