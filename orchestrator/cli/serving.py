"""`trireel serve`, `worker` and `export`: the commands that are other programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import click

from orchestrator.cli.output import note_json
from orchestrator.errors import ExportError

EXPORT_ENV: Final = Path(".venv-export")


@click.command()
@click.option("--json", "as_json", is_flag=True, is_eager=True, callback=note_json, help="Log and tell errors as JSON.")
def serve(as_json: bool) -> None:
    """Serve the API and its work until SIGTERM.

    Settings are environment variables (TRIREEL_PORT, TRIREEL_DATA_DIR, TRIREEL_TRITON_URL ...); the README lists them.
    Without TRIREEL_TRITON_URL an embedded Triton is started.
    """
    from orchestrator.settings import load_settings

    settings = load_settings(os.environ)

    # We start programs and use no gRPC in them: its hooks around fork only complain (grpcio 1.85 under uvloop).
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from orchestrator.bootstrap import open_services
    from orchestrator.telemetry import configure_logging
    from orchestrator.web.server import run as run_server

    configure_logging("json" if as_json else settings.log.format, settings.log.level)
    run_server(settings, open_services)


@click.command()
@click.option("--json", "as_json", is_flag=True, is_eager=True, callback=note_json, help="Log and tell errors as JSON.")
def worker(as_json: bool) -> None:
    """Work on the jobs of an API elsewhere until SIGTERM.

    Settings are those of `serve`: the same TRIREEL_DATABASE_URL (PostgreSQL), TRIREEL_REDIS_URL and, shared between the
    machines, TRIREEL_DATA_DIR. Without TRIREEL_TRITON_URL an embedded Triton is started.
    """
    from orchestrator.settings import load_settings

    settings = load_settings(os.environ)

    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from orchestrator.bootstrap import open_worker
    from orchestrator.telemetry import configure_logging
    from orchestrator.worker.until_stopped import run as run_worker

    configure_logging("json" if as_json else settings.log.format, settings.log.level)
    run_worker(settings, open_worker)


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def export(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Turn weights into a certified model version: `python -m export` in its own environment, .venv-export.

    That program's options, --help included, and its output are passed on as they are; --json is none of them, since
    what it makes is the model folder with its certificate as a JSON file.
    """
    python = EXPORT_ENV / "bin" / "python"
    if not python.exists():
        raise ExportError(
            f"{EXPORT_ENV} is missing: exporting needs PyTorch in an environment of its own; "
            "`make model WEIGHTS=... NAME=...` makes it and exports"
        )
    ctx.exit(subprocess.run([python, "-m", "export", *arguments], check=False).returncode)
