"""`trireel run`: a video in, a table and a file out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from orchestrator.cli.options import JobOptions, format_option, job_options, json_option, url_option
from orchestrator.cli.output import echo_error
from orchestrator.cli.video_source import check_video, choose_model, is_video_id, send_video
from orchestrator.core.states import JobState

if TYPE_CHECKING:
    from orchestrator.cli.display import Display
    from orchestrator.cli.findings import ClassFinding
    from orchestrator.client import Client, FrameAnswer, JobAnswer

RESULT_DIR: Final = Path("runs")


@click.command()
@click.argument("video", metavar="VIDEO")
@job_options
@url_option
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Of an embedded stack; temporary unless given."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Result file; runs/VIDEO-JOB.FORMAT.")
@format_option
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    video: str,
    request: JobOptions,
    url: str,
    data_dir: Path | None,
    output: Path | None,
    file_format: str,
    as_json: bool,
) -> None:
    """Infer VIDEO, a file or the id of an uploaded one, and show what was found.

    Where no server answers, an embedded stack is started, and stopped at the end. Ctrl-C cancels the job.
    With --json, a job that did not succeed is printed too.
    """
    from orchestrator.cli.display import open_display
    from orchestrator.cli.embedded_stack import open_server
    from orchestrator.cli.following_job import exit_code_for
    from orchestrator.cli.output import echo_json, open_console
    from orchestrator.client import Client

    check_video(video)
    with open_server(url, data_dir=data_dir) as server_url, Client(server_url) as client:
        with open_display(open_console(is_for_errors=True)) as display:
            job = infer(client, video, request, display)
        if job.state != JobState.SUCCEEDED:
            if as_json:
                echo_json({"job": job, "found": [], "results": None})
            ctx.exit(exit_code_for(job))
        path = output or RESULT_DIR / f"{name_of(video)}-{job.id}.{file_format}"
        findings = keep_results(client, job.id, path, file_format)
    show(job, findings, path, as_json=as_json)


def infer(client: Client, video: str, request: JobOptions, display: Display) -> JobAnswer:
    """Upload, submit and follow to the end. An interrupt cancels the job: nobody else waits for it."""
    from orchestrator.cli.following_job import follow_to_end

    model = choose_model(client, request.model)
    job = client.submit(request.to_request(send_video(client, video, display), model))
    try:
        return follow_to_end(client, job.id, display)
    except KeyboardInterrupt:
        state = client.cancel(job.id).state
        echo_error("interrupted", f"job {job.id} is {state}")
        raise


def name_of(video: str) -> str:
    return video if is_video_id(video) else Path(video).stem


def keep_results(client: Client, job_id: str, path: Path, file_format: str) -> list[ClassFinding]:
    """Write the job's detections to `path`, and sum them up."""
    from orchestrator.cli.findings import findings_of
    from orchestrator.cli.output import open_whole

    with open_whole(path) as file:
        client.detections(job_id, file, file_format=file_format)
    if file_format != "ndjson":
        return findings_of(client.frames(job_id))
    with path.open("rb") as file:
        return findings_of(frames_in(file))


def frames_in(file: BinaryIO) -> Iterator[FrameAnswer]:
    """The frames of an ndjson file."""
    from orchestrator.client import FrameLines

    lines = FrameLines()
    for line in file:
        yield from lines.feed(line)


def show(job: JobAnswer, findings: list[ClassFinding], path: Path, *, as_json: bool) -> None:
    from orchestrator.cli.output import echo_json, open_console
    from orchestrator.cli.terminal_tables import finding_table

    if as_json:
        echo_json({"job": job, "found": findings, "results": str(path)})
        return
    console = open_console()
    ledger = job.ledger
    click.echo(f"{ledger.inferred} frames inferred, {ledger.failed} failed, {ledger.skipped} not sampled")
    for warning in job.warnings:
        click.echo(f"warning: {warning}")
    if findings:
        console.print(finding_table(findings))
    else:
        click.echo("nothing was found; a lower --conf shows weaker detections")
    click.echo(f"results: {path}")
