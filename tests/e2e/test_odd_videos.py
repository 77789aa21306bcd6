"""Seventeen real files that break naive video code: every frame of each is inferred, or its loss is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from orchestrator.client import ApiError, SubmitJob, VideoAnswer
from tests.support.needs import SHARED_DATA
from tests.support.stack import Stack
from tests.support.triton import MEAN_COLOUR

# The bomb alone is two minutes of decoding on one core.
pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(600)]

FOLDER: Final = SHARED_DATA / "odd_videos"
MANIFEST: Final = FOLDER / "manifest.json"
# A decompression bomb: 21,766 frames of 4K in 1.1 MB.
EVERY_NTH: Final = {"long_4k_av1.mp4": 25}
# What the manifest's readers counted; the others' counts are the index's own.
FRAMES: Final = {
    "av1_video.mkv": 125,
    "dolbyVision-hdr.MOV": 4,
    "file+with+data&streams=works?.mp4": 309,
    "fixture-null.webm": 36,
    "long_4k_av1.mp4": 871,
    "sample_partially_fragmented.mp4": 30,
    "sample_with_invalid_nalu.mp4": 29,
}
OUTCOMES: Final = {
    "ok": frozenset({"ok"}),
    "partial": frozenset({"partial"}),
    "reject": frozenset({"reject"}),
    "ok-or-partial": frozenset({"ok", "partial"}),
    "ok-or-limit": frozenset({"ok", "reject"}),
}


def manifest() -> list[tuple[str, str]]:
    """Names and expectations; one row that skips where the files are absent."""
    if not MANIFEST.is_file():
        return [("absent", "ok")]
    return [(entry["file"], entry["expect"]) for entry in json.loads(MANIFEST.read_text())]


@pytest.mark.needs("shared_data")
@pytest.mark.parametrize(("file_name", "expected"), manifest())
def test_an_odd_video_is_inferred_whole_or_its_losses_are_told(stack: Stack, file_name: str, expected: str) -> None:
    refusal, video = upload(stack, FOLDER / file_name)
    if video is None:
        assert refusal.startswith("video_")
        assert "reject" in OUTCOMES[expected], refusal
        return
    every_nth = EVERY_NTH.get(file_name, 1)
    job, _ = stack.run_to_end(SubmitJob(video_id=video.id, model=MEAN_COLOUR, every_nth=every_nth))
    told = [frame.frame_index for frame in stack.client.frames(job.id)] if job.state == "succeeded" else []
    assert outcome_of(job.state, job.warnings) in OUTCOMES[expected], (job.state, job.error, job.warnings)
    if job.state == "succeeded":
        assert job.ledger.planned == job.ledger.inferred + job.ledger.failed == len(told)
        assert job.ledger.inferred == FRAMES.get(file_name, job.ledger.inferred)
        assert job.progress.percent == 100.0
    else:
        assert job.error is not None
        assert job.error.code.startswith("video_")
    stack.client.delete(job.id)
    stack.client.delete_video(video.id)


def upload(stack: Stack, path: Path) -> tuple[str, VideoAnswer | None]:
    """The code it was refused with, or the video."""
    try:
        return "", stack.client.upload(path)
    except ApiError as error:
        return error.code, None


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
