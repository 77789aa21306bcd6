"""Every codec and container that people upload, over REST: each frame is inferred once, and lost ones are told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.client import SubmitJob
from tests.support.stack import Stack
from tests.support.triton import MEAN_COLOUR
from tests.support.videos import CUT, FRAMES, HEIGHT_PX, WHOLE, WIDTH_PX, VideoSpec, make_video

pytestmark = pytest.mark.needs("triton")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize("spec", WHOLE, ids=lambda spec: spec.file_name)
def test_a_whole_video_is_inferred_frame_by_frame_without_a_warning(
    stack: Stack, folder: Path, spec: VideoSpec
) -> None:
    video = stack.client.upload(make_video(spec, folder))
    assert (video.width_px, video.height_px) == (WIDTH_PX, HEIGHT_PX)
    job, _ = stack.run_to_end(SubmitJob(video_id=video.id, model=MEAN_COLOUR))
    assert (job.state, job.warnings) == ("succeeded", ())
    assert (job.ledger.planned, job.ledger.inferred, job.ledger.failed) == (FRAMES, FRAMES, 0)
    frames = list(stack.client.frames(job.id))
    assert [frame.frame_index for frame in frames] == list(range(FRAMES))
    if spec.pts_ms:
        assert [frame.pts_ms for frame in frames] == pytest.approx(spec.pts_ms, abs=1)


@pytest.mark.parametrize("spec", CUT, ids=lambda spec: spec.file_name)
def test_a_cut_video_never_passes_as_whole(stack: Stack, folder: Path, spec: VideoSpec) -> None:
    video = stack.client.upload(make_video(spec, folder))
    job, _ = stack.run_to_end(SubmitJob(video_id=video.id, model=MEAN_COLOUR))
    assert job.state == "succeeded"
    assert 0 < job.ledger.inferred < FRAMES
    assert job.ledger.planned == job.ledger.inferred + job.ledger.failed
    assert job.warnings != ()
