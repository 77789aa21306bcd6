"""Real video in over REST, Ultralytics' own boxes out: against what `ultralytics predict` finds in every frame."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.client import SubmitJob, ViewQuery
from orchestrator.core.views import pairwise_iou
from tests.support.needs import EXPORT_PYTHON, ROOT, SHARED_DATA
from tests.support.stack import Stack, serving

pytestmark = [
    pytest.mark.needs("triton"),
    pytest.mark.needs("shared_data"),
    pytest.mark.needs("export_environment"),
    pytest.mark.timeout(1800),
]

CONFIDENCE: Final = 0.25
# A confidence may move by as much, so that a box so near the threshold may fall on either side of it.
CONFIDENCE_TOLERANCE: Final = 0.005
LEAST_IOU: Final = 0.99
CLIPS: Final = ("car-detection", "one-by-one-person-detection")
ONE_SEGMENT_FOR_ALL: Final = "1000000"

# 1 compares every frame also in the variants, which takes a quarter of an hour on two cores.
GOLDEN_EVERY_NTH: Final = "GOLDEN_EVERY_NTH"

# Rows of frames: x1, y1, x2, y2 in source px, confidence, class id.
Boxes = NDArray[np.float64]


@pytest.fixture(scope="module")
def yolo11n_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real YOLO11n, exported, certified and published the way a user does it."""
    repository = tmp_path_factory.mktemp("model_repository")
    weights = SHARED_DATA / "models" / "yolo11n-coco.pt"
    command = [EXPORT_PYTHON, "-m", "export", weights, "yolo11n", "--repository", repository]
    published = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert published.returncode == 0, published.stdout + published.stderr
    return repository


@pytest.fixture(scope="module")
def stack(yolo11n_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with serving(tmp_path_factory.mktemp("stack"), model_repository=yolo11n_repository) as running:
        yield running


def golden_of(clip: str) -> list[Boxes]:
    golden = json.loads((SHARED_DATA / "golden" / f"{clip}.yolo11n.json").read_text())
    return [np.array(rows, dtype=np.float64).reshape(-1, 6) for rows in golden["frames"]]


def found_by(stack: Stack, clip: str, *, every_nth: int = 1) -> dict[int, Boxes]:
    """Detections at confidence 0.25 by frame, through the whole product."""
    video = stack.client.upload(SHARED_DATA / "videos" / f"{clip}.mp4")
    job, _ = stack.run_to_end(SubmitJob(video_id=video.id, model="yolo11n", every_nth=every_nth))
    assert (job.state, job.warnings) == ("succeeded", ())
    assert job.ledger.planned == job.ledger.inferred
    return {
        frame.frame_index: np.array(
            [[*box.xyxy, box.confidence, box.class_id] for box in frame.detections], dtype=np.float64
        ).reshape(-1, 6)
        for frame in stack.client.frames(job.id, view=ViewQuery(conf=CONFIDENCE))
    }


def lacking(wanted: Boxes, given: Boxes) -> list[list[float]]:
    """Rows of `wanted` clearly over the threshold without a partner of their own in `given`.

    Partners have the same class, place and confidence; those of the most overlap find each other first.
    """
    sure = wanted[wanted[:, 4] >= CONFIDENCE + CONFIDENCE_TOLERANCE]
    iou = pairwise_iou(sure[:, :4].astype(np.float32), given[:, :4].astype(np.float32))
    is_same_class = sure[:, None, 5] == given[None, :, 5]
    is_as_sure = np.abs(sure[:, None, 4] - given[None, :, 4]) <= CONFIDENCE_TOLERANCE
    alike = np.where((iou >= LEAST_IOU) & is_same_class & is_as_sure, iou, 0.0)
    has_partner = np.zeros(len(sure), dtype=np.bool_)
    while alike.any():
        one, other = np.unravel_index(alike.argmax(), alike.shape)
        has_partner[one] = True
        alike[one, :] = alike[:, other] = 0.0
    return [[round(value, 3) for value in row] for row in sure[~has_partner].tolist()]


def differences(
    stack: Stack, clip: str, *, every_nth: int = 1
) -> dict[int, tuple[list[list[float]], list[list[float]]]]:
    """Frames in which boxes were lost or added, with these boxes."""
    golden = golden_of(clip)
    found = found_by(stack, clip, every_nth=every_nth)
    assert sorted(found) == list(range(0, len(golden), every_nth))
    different = {frame: (lacking(golden[frame], found[frame]), lacking(found[frame], golden[frame])) for frame in found}
    return {frame: (lost, added) for frame, (lost, added) in different.items() if lost or added}


@pytest.mark.parametrize("clip", CLIPS)
def test_every_frame_has_ultralytics_boxes_and_no_others(stack: Stack, clip: str) -> None:
    assert stack.client.readiness().transport == "shm"
    assert differences(stack, clip) == {}


@pytest.mark.parametrize(
    ("transport", "segment_frames"),
    [("grpc", "64"), ("shm", "1"), ("grpc", "1"), ("shm", ONE_SEGMENT_FOR_ALL), ("grpc", ONE_SEGMENT_FOR_ALL)],
)
def test_transport_and_segments_change_no_box(
    yolo11n_repository: Path, tmp_path: Path, transport: str, segment_frames: str
) -> None:
    settings = {"TRANSPORT": transport, "SEGMENT_FRAMES": segment_frames}
    every_nth = int(os.environ.get(GOLDEN_EVERY_NTH, "12"))
    with serving(tmp_path, model_repository=yolo11n_repository, **settings) as stack:
        assert stack.client.readiness().transport == transport
        assert {clip: differences(stack, clip, every_nth=every_nth) for clip in CLIPS} == {clip: {} for clip in CLIPS}


def test_the_comparison_notices_a_lost_an_added_a_doubled_and_a_moved_box() -> None:
    golden = golden_of("car-detection")[200]
    golden = np.vstack([golden, [10.0, 10.0, 60.0, 50.0, 0.9, 2.0]])
    shifted, weaker, other_class = golden.copy(), golden.copy(), golden.copy()
    shifted[-1, 0] += 1.0
    weaker[-1, 4] -= 0.01
    other_class[-1, 5] = 3
    assert lacking(golden, golden) == []
    assert lacking(golden, golden[:-1]) != []
    assert lacking(np.vstack([golden, golden[-1:]]), golden) == [golden[-1].tolist()]
    for spoilt in (shifted, weaker, other_class):
        assert lacking(golden, spoilt) != []
        assert lacking(spoilt, golden) != []
