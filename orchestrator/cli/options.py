"""Options that several commands share, and the values they are packed into."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from orchestrator.cli.output import note_json

if TYPE_CHECKING:
    from orchestrator.client import SubmitJob, ViewQuery

Command = TypeVar("Command", bound=Callable[..., Any])
RESULT_FORMATS: Final = ("ndjson", "json", "csv", "parquet")


def default_url() -> str:
    """Where `trireel serve` listens when nothing is set."""
    from orchestrator.settings import DEFAULTS

    return f"http://{DEFAULTS['TRIREEL_HOST']}:{DEFAULTS['TRIREEL_PORT']}"


url_option = click.option(
    "--url",
    envvar="TRIREEL_URL",
    default=default_url,
    show_default="http://127.0.0.1:8080",
    metavar="URL",
    help="The server's address; TRIREEL_URL says it for good.",
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    # Before the others, so that what is wrong with them is told as JSON.
    is_eager=True,
    callback=note_json,
    help="Print JSON, and nothing else, on standard output; errors as JSON on standard error. For programs.",
)
format_option = click.option(
    "--format",
    "file_format",
    type=click.Choice(RESULT_FORMATS),
    default="ndjson",
    show_default=True,
    help="Of the detections.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """What lets candidates through; None leaves it to the server. classes: names or ids, comma-separated."""

    conf: float | None
    iou: float | None
    classes: str | None
    max_det: int | None

    def to_query(self) -> ViewQuery:
        from orchestrator.client import ViewQuery

        names = None if self.classes is None else tuple(name.strip() for name in self.classes.split(","))
        return ViewQuery(conf=self.conf, iou=self.iou, classes=names, max_det=self.max_det)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """A request for a job, apart from its video. model: None takes the only one served."""

    model: str | None
    every_nth: int | None
    fps: float | None
    start_s: float | None
    end_s: float | None
    priority: int | None
    timeout_s: float | None
    tags: tuple[str, ...]
    view: ViewOptions

    def to_request(self, video_id: str, model: str) -> SubmitJob:
        from orchestrator.client import SubmitJob

        return SubmitJob(
            video_id=video_id,
            model=model,
            every_nth=self.every_nth,
            fps=self.fps,
            start_s=self.start_s,
            end_s=self.end_s,
            view=self.view.to_query(),
            priority=self.priority,
            timeout_s=self.timeout_s,
            tags=self.tags,
        )


def view_options(command: Command) -> Command:
    """Hands the command its view as `view: ViewOptions`."""

    @click.option("--conf", type=float, help="Lowest confidence, 0 to 1.")
    @click.option("--iou", type=float, help="Suppress boxes that overlap more than this; not over the model's own.")
    @click.option("--classes", metavar="A,B", help="Class names or ids, comma-separated.")
    @click.option("--max-det", type=int, help="Most detections a frame.")
    @functools.wraps(command)
    def packed(
        *args: Any, conf: float | None, iou: float | None, classes: str | None, max_det: int | None, **rest: Any
    ) -> Any:
        return command(*args, view=ViewOptions(conf=conf, iou=iou, classes=classes, max_det=max_det), **rest)

    return packed  # type: ignore[return-value]  # click calls it with keywords; `wraps` keeps the rest


def job_options(command: Command) -> Command:
    """Hands the command its request as `request: JobOptions`, the view included."""

    @click.option("--model", metavar="NAME[:VERSION]", help="The model; the only one served, unless given.")
    @click.option("--every-nth", type=click.IntRange(min=1), help="Infer frames 0, N, 2N; 1 is every frame.")
    @click.option("--fps", type=float, help="Infer so many frames a second of video instead.")
    @click.option("--start", "start_s", type=float, metavar="SECONDS", help="Begin here.")
    @click.option("--end", "end_s", type=float, metavar="SECONDS", help="End before this.")
    @click.option("--priority", type=click.IntRange(1, 100), help="Share of the work against other jobs; 50.")
    @click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Give the job up after so long.")
    @click.option("--tag", "tags", multiple=True, help="A word to find the job by; may be repeated.")
    @view_options
    @functools.wraps(command)
    def packed(*args: Any, view: ViewOptions, **values: Any) -> Any:
        names = ("model", "every_nth", "fps", "start_s", "end_s", "priority", "timeout_s", "tags")
        request = JobOptions(view=view, **{name: values.pop(name) for name in names})
        return command(*args, request=request, **values)

    return packed  # type: ignore[return-value]  # as above
