"""`trireel list`, `status`, `results` and `models`: looking at what is there."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import ViewOptions, format_option, json_option, url_option, view_options
from orchestrator.core.states import JobState


@click.command(name="list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in JobState]),
    help="Only these; may be repeated.",
)
@click.option("--model", metavar="NAME[:VERSION]", help="Only of this model.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@url_option
@json_option
def list_jobs(states: tuple[str, ...], model: str | None, limit: int, url: str, as_json: bool) -> None:
    """List jobs, newest first."""
    from orchestrator.cli.output import echo_json, open_console
    from orchestrator.client import Client

    with Client(url) as client:
        page = client.jobs(states=states, model=model, limit=limit)
    if as_json:
        echo_json(page)
        return
    from orchestrator.cli.terminal_tables import job_table

    if page.items:
        open_console().print(job_table(page.items))
    else:
        click.echo("no jobs")


@click.command()
@click.argument("job_id", metavar="JOB")
@url_option
@json_option
def status(job_id: str, url: str, as_json: bool) -> None:
    """Show how JOB stands."""
    from orchestrator.cli.output import echo_json, open_console
    from orchestrator.client import Client

    with Client(url) as client:
        job = client.job(job_id)
    if as_json:
        echo_json(job)
        return
    from orchestrator.cli.terminal_tables import job_details

    open_console().print(job_details(job))


@click.command()
@click.argument("job_id", metavar="JOB")
@view_options
@click.option("--from-frame", type=click.IntRange(min=0), help="First frame of the video, counted from 0.")
@click.option("--to-frame", type=click.IntRange(min=0), help="Last frame, inclusive.")
@click.option("--follow", is_flag=True, help="While the job runs: go on until it is over.")
@format_option
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File; standard output unless given.")
@url_option
@json_option
def results(
    job_id: str,
    view: ViewOptions,
    from_frame: int | None,
    to_frame: int | None,
    follow: bool,
    file_format: str,
    output: Path | None,
    url: str,
    as_json: bool,
) -> None:
    """Write the detections of JOB, as a view of its stored candidates.

    --json without --output is --format json; with it, it describes the file.
    """
    from orchestrator.cli.output import echo_json, open_whole
    from orchestrator.client import Client, FrameRange

    query, frames = view.to_query(), FrameRange(from_frame, to_frame)
    with Client(url) as client:
        if output is None:
            chosen = "json" if as_json else file_format
            if chosen == "parquet" and sys.stdout.isatty():
                raise click.UsageError("parquet is not for a terminal; name a file with --output")
            client.detections(job_id, sys.stdout.buffer, file_format=chosen, view=query, frames=frames, follow=follow)
            return
        with open_whole(output) as file:
            size_bytes = client.detections(
                job_id, file, file_format=file_format, view=query, frames=frames, follow=follow
            )
    if as_json:
        echo_json({"job_id": job_id, "results": str(output), "format": file_format, "size_bytes": size_bytes})
    else:
        click.echo(str(output))


@click.command(name="models")
@url_option
@json_option
def list_models(url: str, as_json: bool) -> None:
    """List the published models: versions, state in Triton, number of classes, certificate."""
    from orchestrator.cli.output import echo_json, open_console
    from orchestrator.client import Client

    with Client(url) as client:
        models = client.models()
    if as_json:
        echo_json({"items": models})
        return
    from orchestrator.cli.terminal_tables import model_table

    if models:
        open_console().print(model_table(models))
    else:
        click.echo("no models; publish one with `make model WEIGHTS=... NAME=...`")
