"""`trireel submit`, `watch`, `cancel` and `retry`: a job's life, one step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import JobOptions, job_options, json_option, url_option
from orchestrator.cli.video_source import check_video, choose_model, is_video_id, send_video

if TYPE_CHECKING:
    from orchestrator.client import JobAnswer


@click.command()
@click.argument("video", metavar="VIDEO")
@job_options
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="For an uploaded VIDEO: the same command with the same key makes no second job.",
)
@url_option
@json_option
def submit(video: str, request: JobOptions, idempotency_key: str | None, url: str, as_json: bool) -> None:
    """Upload VIDEO, unless it is the id of an uploaded one, submit a job for it and print the job's id."""
    from orchestrator.cli.display import open_display
    from orchestrator.cli.output import echo_json, open_console
    from orchestrator.client import Client

    check_video(video)
    if idempotency_key is not None and not is_video_id(video):
        raise click.UsageError("--idempotency-key needs the id of an uploaded video: each upload makes a new one")
    with Client(url) as client:
        model = choose_model(client, request.model)
        with open_display(open_console(is_for_errors=True)) as display:
            video_id = send_video(client, video, display)
        job = client.submit(request.to_request(video_id, model), idempotency_key=idempotency_key)
    if as_json:
        echo_json(job)
    else:
        click.echo(job.id)


@click.command()
@click.argument("job_id", metavar="JOB")
@url_option
@json_option
@click.pass_context
def watch(ctx: click.Context, job_id: str, url: str, as_json: bool) -> None:
    """Follow JOB until it is over. Ctrl-C ends the watching, not the job."""
    from orchestrator.cli.display import open_display
    from orchestrator.cli.following_job import exit_code_for, follow_to_end
    from orchestrator.cli.output import echo_json, open_console
    from orchestrator.client import Client

    with Client(url) as client:
        if as_json:
            for event in client.follow(job_id):
                echo_json(event)
            job = client.job(job_id)
        else:
            with open_display(open_console()) as display:
                job = follow_to_end(client, job_id, display)
            click.echo(f"job {job.id} {job.state}")
    ctx.exit(exit_code_for(job))


@click.command()
@click.argument("job_id", metavar="JOB")
@url_option
@json_option
def cancel(job_id: str, url: str, as_json: bool) -> None:
    """Cancel JOB; one that is over stays as it is."""
    from orchestrator.client import Client

    with Client(url) as client:
        echo_state(client.cancel(job_id), as_json=as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
@url_option
@json_option
def retry(job_id: str, url: str, as_json: bool) -> None:
    """Queue JOB again, which failed or was cancelled; it goes on where it stopped."""
    from orchestrator.client import Client

    with Client(url) as client:
        echo_state(client.retry(job_id), as_json=as_json)


def echo_state(job: JobAnswer, *, as_json: bool) -> None:
    """What became of a job."""
    from orchestrator.cli.output import echo_json

    if as_json:
        echo_json(job)
    else:
        click.echo(f"job {job.id} {job.state}")
