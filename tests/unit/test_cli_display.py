"""Progress in words."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.cli.display import LineDisplay, clock, counts, open_display
from orchestrator.client import ProgressAnswer

# Of which rich draws a bar.
BAR = "━"


def progress(percent: float | None, frames_done: int = 0, frames_total: int | None = 100) -> ProgressAnswer:
    return ProgressAnswer(
        percent=percent, frames_done=frames_done, frames_total=frames_total, fps=31.25, realtime_factor=1.0, eta_s=8.2
    )


def test_progress_tells_frames_speed_and_time_left() -> None:
    assert counts(progress(50, 120, 377)) == "120/377 frames, 31.2 fps, ETA 0:08"


def test_what_is_not_known_is_not_told() -> None:
    nothing = ProgressAnswer(percent=None, frames_done=0, frames_total=None)
    assert counts(nothing) == "0/? frames"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
def test_times_are_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_lines_come_every_tenth_of_the_way_and_at_the_end() -> None:
    lines: list[str] = []
    display = LineDisplay(lines.append)
    display.moved("running")
    for percent in (None, 0.0, 4.0, 9.9, 10.0, 12.0, 99.0, 99.9, 100.0, 100.0):
        display.progressed("inferring", progress(percent))
    assert lines[0] == "running"
    assert [line.split()[1] for line in lines[1:]] == ["0.0", "10.0", "99.0", "100.0"]


def test_an_upload_tells_megabytes() -> None:
    lines: list[str] = []
    display = LineDisplay(lines.append)
    for sent in (0, 500_000, 1_000_000):
        display.uploaded(sent, 1_000_000)
    assert lines[-1] == "uploading 100.0 % 1.0/1.0 MB"


def test_an_empty_file_is_uploaded_at_once() -> None:
    lines: list[str] = []
    LineDisplay(lines.append).uploaded(0, 0)
    assert lines == ["uploading 100.0 % 0.0/0.0 MB"]


def test_off_a_terminal_there_are_lines_without_escapes() -> None:
    out = io.StringIO()
    with open_display(Console(file=out)) as display:
        display.progressed("inferring", progress(50.0, 50))
    assert out.getvalue() == "inferring 50.0 % 50/100 frames, 31.2 fps, ETA 0:08\n"


def shown(*, is_terminal: bool) -> list[str]:
    """Lines of an upload and a job that is half done, each as often as it was drawn."""
    out = io.StringIO()
    with open_display(Console(file=out, force_terminal=is_terminal, width=120)) as display:
        display.uploaded(1, 2)
        display.moved("running")
        display.progressed("inferring", progress(50.0, 50))
    return out.getvalue().splitlines()


def test_on_a_terminal_there_is_a_bar_and_elsewhere_there_is_none() -> None:
    for is_terminal in (True, False):
        half_done = [line for line in shown(is_terminal=is_terminal) if "50/100 frames, 31.2 fps, ETA 0:08" in line]
        assert {BAR in line for line in half_done} == {is_terminal}
