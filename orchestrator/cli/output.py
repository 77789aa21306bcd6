"""What commands print and write: JSON, tables for people, and result files that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

if TYPE_CHECKING:
    import msgspec
    from rich.console import Console

WIDTH_OFF_TERMINAL: Final = 200
# In click's `meta`, which a command shares with the program around it.
JSON_ASKED: Final = "trireel.json"


def note_json(ctx: click.Context, option: click.Parameter, is_asked: bool) -> bool:
    """Have errors told as JSON too; the callback of every `--json`."""
    ctx.meta[JSON_ASKED] = is_asked
    return is_asked


def is_json_asked(ctx: click.Context) -> bool:
    return bool(ctx.meta.get(JSON_ASKED))


def echo_error(code: str, message: str) -> None:
    """A line on standard error: a sentence, or with --json an object."""
    if is_json_asked(click.get_current_context()):
        click.echo(json.dumps({"code": code, "message": message}), err=True)
    else:
        click.echo(f"trireel: {code}: {message}", err=True)


def echo_json(document: msgspec.Struct | dict[str, object]) -> None:
    """One document on a line of its own, out at once."""
    import msgspec

    click.echo(msgspec.json.encode(document).decode())


def open_console(*, is_for_errors: bool = False) -> Console:
    """Standard output, or standard error. Off a terminal lines are wide, so that no id is cut."""
    from rich.console import Console

    console = Console(stderr=is_for_errors)
    return console if console.is_terminal else Console(stderr=is_for_errors, width=WIDTH_OFF_TERMINAL)


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """A new file at `path`, folders included, that appears under its name only when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
