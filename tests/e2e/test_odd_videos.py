"""Seventeen real files that break naive video code: every frame of each is inferred, or its loss is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from orchestrator.client import ApiError, SubmitJob, VideoAnswer
from orchestrator.errors import VideoOverLimitError
from tests.support.odd_videos import FILES, MANIFEST, ODD_VIDEOS, Expected
from tests.support.stack import Stack
from tests.support.triton import MEAN_COLOUR

# The bomb alone is two minutes of decoding on one core.
pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(600)]

OK_OR_LIMIT: Final = "ok-or-limit"
OUTCOMES: Final = {
    "ok": frozenset({"ok"}),
    "partial": frozenset({"partial"}),
    "reject": frozenset({"reject"}),
    "ok-or-partial": frozenset({"ok", "partial"}),
    OK_OR_LIMIT: frozenset({"ok", "reject"}),
}


def manifest() -> list[tuple[str, str]]:
    """Names and expectations; one row that skips where the files are absent."""
    if not MANIFEST.is_file():
        return [("absent", "ok")]
    return [(entry["file"], entry["expect"]) for entry in json.loads(MANIFEST.read_text())]


@pytest.mark.needs("shared_data")
@pytest.mark.parametrize(("file_name", "expected"), manifest())
def test_an_odd_video_is_inferred_whole_or_its_losses_are_told(stack: Stack, file_name: str, expected: str) -> None:
    known = FILES[file_name]
    refusal, video = upload(stack, ODD_VIDEOS / file_name)
    if video is None:
        assert "reject" in OUTCOMES[expected], refusal
        assert refusal == refusal_of(file_name, expected)
        return
    assert isinstance(known, Expected)
    job, _ = stack.run_to_end(SubmitJob(video_id=video.id, model=MEAN_COLOUR, every_nth=known.every_nth))
    told = [frame.frame_index for frame in stack.client.frames(job.id)] if job.state == "succeeded" else []
    assert outcome_of(job.state, job.warnings) in OUTCOMES[expected], (job.state, job.error, job.warnings)
    if job.state == "succeeded":
        assert len(told) == known.asked_for
        assert (job.ledger.planned, job.ledger.failed) == (known.asked_for, known.failed)
        assert job.ledger.inferred == known.asked_for - known.failed
        assert job.progress.percent == 100.0
    else:
        assert job.error is not None
        assert job.error.code == refusal_of(file_name, expected)
    stack.client.delete(job.id)
    stack.client.delete_video(video.id)


def upload(stack: Stack, path: Path) -> tuple[str, VideoAnswer | None]:
    """The code it was refused with, or the video."""
    try:
        return "", stack.client.upload(path)
    except ApiError as error:
        return error.code, None


def refusal_of(file_name: str, expected: str) -> str | None:
    """The only code that it may be refused with, if any."""
    known = FILES[file_name]
    if not isinstance(known, Expected):
        return known.code
    return VideoOverLimitError.code if expected == OK_OR_LIMIT else None


def outcome_of(state: str, warnings: tuple[str, ...]) -> str:
    """In the manifest's words: warnings speak of missing or suspect frames only."""
    if state != "succeeded":
        return "reject"
    return "partial" if warnings else "ok"


@pytest.mark.needs("shared_data")
def test_nothing_of_any_of_them_is_left_on_disk(stack: Stack) -> None:
    for job in stack.client.jobs(limit=100).items:
        stack.client.delete(job.id)
    for video in stack.client.videos(limit=100).items:
        stack.client.delete_video(video.id)
    left = [path.relative_to(stack.data_dir).as_posix() for path in stack.data_dir.rglob("*") if path.is_file()]
    assert [name for name in left if name.startswith(("videos/", "runs/", "incoming/"))] == []
    assert stack.client.readiness().is_ready
