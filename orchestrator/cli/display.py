"""How an upload and a job go on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

if TYPE_CHECKING:
    from orchestrator.client import ProgressAnswer

LINE_STEP_PERCENT: Final = 10


class Display(Protocol):
    def uploaded(self, sent_bytes: int, total_bytes: int) -> None: ...

    def moved(self, state: str) -> None:
        """The job entered `state`."""

    def progressed(self, stage: str, progress: ProgressAnswer) -> None: ...


@contextmanager
def open_display(console: Console) -> Iterator[Display]:
    """The display that suits where `console` writes to."""
    if not console.is_terminal:
        yield LineDisplay(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f} %"),
        TextColumn("{task.fields[counts]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield BarDisplay(bars)


class LineDisplay:
    """Writes a line for each state, and for every tenth of the way."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._told_percent: dict[str, float] = {}

    def uploaded(self, sent_bytes: int, total_bytes: int) -> None:
        percent = 100 * sent_bytes / total_bytes if total_bytes else 100.0
        self._tell("uploading", percent, megabytes(sent_bytes, total_bytes))

    def moved(self, state: str) -> None:
        self._write(state)

    def progressed(self, stage: str, progress: ProgressAnswer) -> None:
        if progress.percent is not None:
            self._tell(stage, progress.percent, counts(progress))

    def _tell(self, stage: str, percent: float, text: str) -> None:
        told_percent = self._told_percent.get(stage, -100.0)
        if percent >= told_percent + LINE_STEP_PERCENT or percent >= 100 > told_percent:
            self._told_percent[stage] = percent
            self._write(f"{stage} {percent:.1f} % {text}")


class BarDisplay:
    """Draws a bar for the upload, and in its place one for the job once that begins."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._upload: TaskID | None = None
        self._job: TaskID | None = None

    def uploaded(self, sent_bytes: int, total_bytes: int) -> None:
        if self._upload is None:
            self._upload = self._bars.add_task("uploading", total=total_bytes, counts="")
        self._bars.update(self._upload, completed=sent_bytes, counts=megabytes(sent_bytes, total_bytes))

    def moved(self, state: str) -> None:
        self._bars.update(self._bar(), description=state)

    def progressed(self, stage: str, progress: ProgressAnswer) -> None:
        self._bars.update(
            self._bar(), description=stage, total=100, completed=progress.percent or 0.0, counts=counts(progress)
        )

    def _bar(self) -> TaskID:
        if self._job is None:
            if self._upload is not None:
                self._bars.update(self._upload, visible=False)
            # Without a total the bar pulses: how many frames there are is known once the video is indexed.
            self._job = self._bars.add_task("queued", total=None, counts="")
        return self._job


def counts(progress: ProgressAnswer) -> str:
    """For example "120/377 frames, 31.0 fps, ETA 0:08"."""
    total = "?" if progress.frames_total is None else str(progress.frames_total)
    parts = [f"{progress.frames_done}/{total} frames"]
    if progress.fps is not None:
        parts.append(f"{progress.fps:.1f} fps")
    if progress.eta_s is not None:
        parts.append(f"ETA {clock(progress.eta_s)}")
    return ", ".join(parts)


def megabytes(part_bytes: int, total_bytes: int) -> str:
    return f"{part_bytes / 1e6:.1f}/{total_bytes / 1e6:.1f} MB"


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
