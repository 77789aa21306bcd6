"""The command `trireel`: its subcommands, and errors as one sentence and an exit code.

Importing this imports click and the error tree only; whatever is heavy is imported inside the command that needs it.
"""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.exit_codes import FAILED, INTERRUPTED, WRONG_USAGE, exit_code_of
from orchestrator.cli.inspecting import list_jobs, list_models, results, status
from orchestrator.cli.output import echo_error, is_json_asked
from orchestrator.cli.running import run
from orchestrator.cli.serving import export, serve, worker
from orchestrator.cli.submitting import cancel, retry, submit, watch
from orchestrator.errors import TrireelError

EPILOG = (
    "Exit codes: 0 done, 1 the job failed or was cancelled, 2 wrong usage or settings, 3 no server, "
    "4 refused or not found, 130 interrupted."
)


class Program(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What the user can act on is one line on standard error, never a traceback."""
        try:
            return super().invoke(ctx)
        except TrireelError as exc:
            echo_error(exc.code, str(exc))
            ctx.exit(exit_code_of(exc))
        except click.UsageError as exc:
            if not is_json_asked(ctx):
                raise  # click shows the usage beside it
            echo_error("usage_invalid", exc.format_message())
            ctx.exit(WRONG_USAGE)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of our output is gone
        except OSError as exc:
            subject = f"{exc.filename}: " if exc.filename else ""
            echo_error("os_error", f"{subject}{exc.strerror or exc}")
            ctx.exit(FAILED)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(cls=Program, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trireel", message="%(prog)s %(version)s")
def program() -> None:
    """Run a YOLO model over videos and see what it found."""


for command in (serve, worker, run, submit, list_jobs, status, watch, cancel, retry, results, list_models, export):
    program.add_command(command)
