"""The JSON of jobs: what a submit may say, and what a job's state looks like."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from orchestrator.core.contract import DEFAULT_CONFIDENCE, MAX_CANDIDATES
from orchestrator.core.rendering import progress_object
from orchestrator.core.types import Sampling
from orchestrator.formats.result_head import ModelName, SamplingAnswer, ViewAnswer
from orchestrator.jobs import JobRequest, JobSnapshot
from orchestrator.web.schemas import VIDEO_ID, FailureAnswer, VideoAnswer

JOB_ID: Final = "job_me8ngiNttRH0u4qcNJ7b9Q"
# Beyond any video; without a bound, a number that no database column holds would get past the door.
Seconds: TypeAlias = Annotated[float, Meta(le=10_000_000)]
MAX_TAGS: Final = 50
MAX_TAG_LENGTH: Final = 100
Count: TypeAlias = Annotated[int, Meta(le=1_000_000_000)]


class ViewBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Thresholds and filters: the job's own view, which single requests may replace."""

    conf: Annotated[float, Meta(description="0 to 1: boxes of at least this confidence.")] = DEFAULT_CONFIDENCE
    iou: Annotated[
        float | None, Meta(description="Stricter than the version's: a second suppression. Null: the version's own.")
    ] = None
    classes: Annotated[list[str | int] | None, Meta(description="Names or ids; null lets every class through.")] = None
    max_det: Annotated[int, Meta(description="1 to 300: most boxes a frame.")] = MAX_CANDIDATES


class SubmitJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for detections. Only `video_id` and `model` are needed."""

    video_id: Annotated[str, Meta(description="An uploaded video.", max_length=64, examples=[VIDEO_ID])]
    model: Annotated[str, Meta(max_length=200, description="`name` is its newest version.", examples=["yolo11n:2"])]
    every_nth: Annotated[Count | None, Meta(description="Frames 0, n, 2n, ...; all if left out.")] = None
    fps: Annotated[float | None, Meta(description="Frames a second, instead of `every_nth`.")] = None
    start_s: Annotated[Seconds | None, Meta(description="From this second of the video on.")] = None
    end_s: Annotated[Seconds | None, Meta(description="Before this second of the video.")] = None
    view: Annotated[ViewBody, Meta(description="Which boxes the job shows.")] = msgspec.field(default_factory=ViewBody)
    priority: Annotated[int, Meta(description="1 to 100: share of the work against other jobs.")] = 50
    timeout_s: Annotated[
        Seconds | None, Meta(description="Fail the job when it runs longer; waiting in the queue does not count.")
    ] = None
    tags: Annotated[
        list[Annotated[str, Meta(max_length=MAX_TAG_LENGTH)]],
        Meta(max_length=MAX_TAGS, description="Words to find the job by.", examples=[["night"]]),
    ] = []

    def to_request(self) -> JobRequest:
        """Raises SamplingInvalidError."""
        return JobRequest(
            video_id=self.video_id,
            model=self.model,
            sampling=Sampling(
                every_nth=1 if self.every_nth is None else self.every_nth,
                fps=self.fps,
                start_ms=None if self.start_s is None else self.start_s * 1000,
                end_ms=None if self.end_s is None else self.end_s * 1000,
            ),
            min_confidence=self.view.conf,
            iou=self.view.iou,
            classes=None if self.view.classes is None else tuple(map(str, self.view.classes)),
            max_det=self.view.max_det,
            priority=self.priority,
            timeout_s=self.timeout_s,
            tags=tuple(self.tags),
        )


class JobParams(SamplingAnswer, frozen=True):
    """What was asked for, with defaults filled in."""

    view: Annotated[ViewAnswer, Meta(description="Which boxes the job shows.")]
    priority: Annotated[int, Meta(description="1 to 100: share of the work against other jobs.")]
    timeout_s: Annotated[float | None, Meta(description="Null: however long it takes.")]
    tags: Annotated[list[str], Meta(description="As submitted.")]


class ProgressAnswer(msgspec.Struct, frozen=True):
    """How far the run is."""

    percent: Annotated[float, Meta(description="Rounded down; 100 is told when it is true.", examples=[42.5])]
    frames_done: Annotated[int, Meta(description="Sampled frames whose fate is known.", examples=[425])]
    frames_total: Annotated[int | None, Meta(description="Null until the run is planned.", examples=[1000])]
    fps: Annotated[float | None, Meta(description="Inferred frames a second, lately.", examples=[31.4])]
    realtime_factor: Annotated[float | None, Meta(description="Seconds of video a second.", examples=[1.05])]
    eta_s: Annotated[float | None, Meta(description="Seconds to go; null while unknown.", examples=[18.3])]


class LedgerAnswer(msgspec.Struct, frozen=True):
    """Where every frame went: planned = inferred + failed once the job is over; skipped ones were not sampled."""

    planned: Annotated[int, Meta(description="Frames that were sampled.")]
    inferred: Annotated[int, Meta(description="Frames that the model saw.")]
    failed: Annotated[int, Meta(description="Sampled frames that gave no picture or no answer.")]
    skipped: Annotated[int, Meta(description="Frames of the video that were not sampled.")]
    reasons: Annotated[dict[str, int], Meta(description="Failed frames by reason.", examples=[{"decode_error": 2}])]


class TimingsAnswer(msgspec.Struct, frozen=True):
    """Seconds by stage. Stages overlap, and segments and requests run side by side: sums may exceed the wall time."""

    queued: Annotated[float | None, Meta(description="From the submit to its (last) turn; null while the job waits.")]
    indexing: Annotated[float | None, Meta(description="Of the whole video; null until it is indexed.")]
    decoding: Annotated[float, Meta(description="Sum over segments: a decoder at work, others beside it.")]
    waiting: Annotated[float, Meta(description="Sum over batches: for room among the requests in flight.")]
    inferring: Annotated[float, Meta(description="Sum over requests to Triton, several of which run at once.")]
    writing: Annotated[float, Meta(description="Sum over segments: candidates on their way into the database.")]


class JobAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A job and the state of its run."""

    id: Annotated[str, Meta(description="What all other calls name.", examples=[JOB_ID])]
    state: Annotated[
        str, Meta(description="queued, running, cancelling, succeeded, failed or cancelled.", examples=["running"])
    ]
    is_terminal: Annotated[bool, Meta(description="Whether the state is the last one, unless the job is retried.")]
    attempt: Annotated[int, Meta(description="1, and one more for each retry.")]
    stage: Annotated[
        str, Meta(description="queued, indexing, planning, inferring, finalizing or done.", examples=["inferring"])
    ]
    state_reason: Annotated[str | None, Meta(description="The code of `error`, or of what the job waits for just now.")]
    queue_position: Annotated[int | None, Meta(description="1 is next; null unless queued.")]
    video: Annotated[VideoAnswer, Meta(description="The video it looks into.")]
    model: Annotated[ModelName, Meta(description="The version that looks.")]
    params: Annotated[JobParams, Meta(description="What was asked for.")]
    progress: Annotated[ProgressAnswer, Meta(description="How far the run is.")]
    ledger: Annotated[LedgerAnswer, Meta(description="Where every frame went.")]
    timings_s: Annotated[TimingsAnswer, Meta(description="Seconds by stage.")]
    error: Annotated[FailureAnswer | None, Meta(description="Why it failed.")]
    warnings: Annotated[list[str], Meta(description="Codes of missing or suspect frames.")]
    notes: Annotated[list[str], Meta(description="Codes of other remarks.")]
    created_at: Annotated[datetime, Meta(description="When it was submitted, UTC.")]
    started_at: Annotated[datetime | None, Meta(description="When its (last) turn came, UTC.")]
    finished_at: Annotated[datetime | None, Meta(description="When it ended, UTC.")]

    @classmethod
    def from_snapshot(cls, snapshot: JobSnapshot) -> JobAnswer:
        job, run, ledger = snapshot.job, snapshot.run, snapshot.run.ledger
        reason = job.failure or snapshot.waiting_for
        progress = progress_object(snapshot.progress)
        return cls(
            id=job.id,
            state=job.state.value,
            is_terminal=job.state.is_terminal,
            attempt=job.attempt,
            stage=snapshot.stage,
            state_reason=reason.code if reason else None,
            queue_position=snapshot.queue_position,
            video=VideoAnswer.from_video(snapshot.video),
            model=ModelName.from_version(run.spec.model),
            params=_params_of(snapshot),
            progress=msgspec.convert({**progress, "percent": progress["percent"] or 0.0}, ProgressAnswer),
            ledger=LedgerAnswer(
                planned=ledger.planned,
                inferred=ledger.inferred,
                failed=ledger.failed,
                skipped=ledger.skipped,
                reasons=dict(ledger.reasons),
            ),
            timings_s=_timings_of(snapshot),
            error=FailureAnswer.from_failure(job.failure),
            warnings=list(run.warnings),
            notes=list(run.notes),
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


class JobPage(msgspec.Struct, frozen=True):
    """Newest first."""

    items: Annotated[list[JobAnswer], Meta(description="At most `limit` jobs.")]
    next_cursor: Annotated[str | None, Meta(description="Give it as `cursor` for the next page; null on the last.")]


def _params_of(snapshot: JobSnapshot) -> JobParams:
    job, run = snapshot.job, snapshot.run
    sampling = SamplingAnswer.from_sampling(run.spec.sampling)
    return JobParams(
        every_nth=sampling.every_nth,
        fps=sampling.fps,
        start_s=sampling.start_s,
        end_s=sampling.end_s,
        view=ViewAnswer.from_view(job.view, run.card.class_names),
        priority=job.priority,
        timeout_s=job.timeout_s,
        tags=list(job.tags),
    )


def _timings_of(snapshot: JobSnapshot) -> TimingsAnswer:
    job, seconds, report = snapshot.job, snapshot.run.seconds, snapshot.video.report
    turn_at = job.started_at or job.finished_at
    return TimingsAnswer(
        queued=None if turn_at is None else round(max(0.0, (turn_at - job.created_at).total_seconds()), 3),
        indexing=None if report is None or report.indexing_s is None else round(report.indexing_s, 3),
        decoding=round(seconds.decoding, 3),
        waiting=round(seconds.waiting, 3),
        inferring=round(seconds.inferring, 3),
        writing=round(seconds.writing, 3),
    )
