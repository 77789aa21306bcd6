"""Following a job from the command line: to its end, and what the end means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli.exit_codes import FAILED
from orchestrator.cli.output import echo_error
from orchestrator.core.states import JobState

if TYPE_CHECKING:
    from orchestrator.cli.display import Display
    from orchestrator.client import Client, JobAnswer


def follow_to_end(client: Client, job_id: str, display: Display) -> JobAnswer:
    """Show the job's events until it is over, and return it as it then is."""
    from orchestrator.client import ProgressBody, StateBody

    for event in client.follow(job_id):
        if isinstance(event.body, ProgressBody):
            display.progressed(event.body.stage, event.body)
        elif isinstance(event.body, StateBody):
            display.moved(event.body.state)
    return client.job(job_id)


def exit_code_for(job: JobAnswer) -> int:
    """0 for a job that succeeded; says on standard error why another did not."""
    if job.state == JobState.SUCCEEDED:
        return 0
    code, message = f"job_{job.state}", "it has no complete results"
    if job.error is not None:
        code, message = job.error.code, job.error.message
    echo_error(code, f"job {job.id} {job.state}: {message}")
    return FAILED
