"""Jobs, models and findings as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from rich.markup import escape
from rich.table import Table

from orchestrator.cli.display import clock, counts
from orchestrator.cli.findings import ClassFinding
from orchestrator.core.states import JobState

if TYPE_CHECKING:
    from orchestrator.client import JobAnswer, ModelAnswer, ModelVersionAnswer

COLOUR_BY_STATE: Final[Mapping[str, str]] = {
    JobState.QUEUED: "cyan",
    JobState.RUNNING: "blue",
    JobState.CANCELLING: "yellow",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
}


def coloured(state: str) -> str:
    """With the state's colour; one that this client does not know has none."""
    colour = COLOUR_BY_STATE.get(state)
    return f"[{colour}]{state}[/]" if colour else escape(state)


def plain_table(*headings: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
    return table


def job_table(jobs: Sequence[JobAnswer]) -> Table:
    table = plain_table("job", "state", "progress", "model", "video", "created", right=("progress",))
    for job in jobs:
        table.add_row(
            job.id,
            coloured(job.state),
            percent(job.progress.percent),
            escape(f"{job.model.name}:{job.model.version}"),
            escape(job.video.file_name),
            local_time(job.created_at),
        )
    return table


def job_details(job: JobAnswer) -> Table:
    """One line a fact; those that are not known yet are left out."""
    ledger = job.ledger
    facts = {
        "job": job.id,
        "state": coloured(job.state),
        "attempt": "" if job.attempt == 1 else str(job.attempt),
        "stage": "" if job.is_terminal else job.stage,
        "place in the queue": "" if job.queue_position is None else str(job.queue_position),
        "progress": f"{percent(job.progress.percent)}, {counts(job.progress)}",
        "model": escape(f"{job.model.name}:{job.model.version}"),
        "video": escape(f"{job.video.file_name} ({job.video.id})"),
        "frames": f"{ledger.inferred} inferred, {ledger.failed} failed, {ledger.skipped} not sampled",
        "failed frames": escape(", ".join(f"{reason} {frames}" for reason, frames in ledger.reasons.items())),
        "error": "" if job.error is None else escape(f"{job.error.code}: {job.error.message}"),
        "warnings": escape(", ".join(job.warnings)),
        "notes": escape(", ".join(job.notes)),
        "created": local_time(job.created_at),
        "started": local_time(job.started_at),
        "finished": local_time(job.finished_at),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, value)
    return table


def model_table(models: Sequence[ModelAnswer]) -> Table:
    table = plain_table("model", "version", "state", "classes", "certificate", right=("version", "classes"))
    for model in models:
        for version in model.versions:
            table.add_row(
                escape(model.name),
                str(version.version),
                readiness_of(version),
                str(len(version.class_names)) if version.class_names else "",
                version.certificate or "",
            )
    return table


def readiness_of(version: ModelVersionAnswer) -> str:
    if version.is_ready:
        return "[green]ready[/]"
    return "[red]not ready[/]" + (f": {escape(version.reason)}" if version.reason else "")


def finding_table(findings: Sequence[ClassFinding]) -> Table:
    numbers = ("detections", "frames", "first seen", "last seen", "best confidence")
    table = plain_table("class", *numbers, right=numbers)
    for finding in findings:
        table.add_row(
            escape(finding.class_name),
            str(finding.detections),
            str(finding.frames),
            clock(finding.first_seen_ms / 1000),
            clock(finding.last_seen_ms / 1000),
            f"{finding.best_confidence:.2f}",
        )
    return table


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def local_time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
