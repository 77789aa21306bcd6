"""The committed demo model finds shapes in videos that its training never saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.demo.clip import FPS, load_truth, write_clip
from export.demo.evaluate import mean_average_precision
from export.demo.scene import FrameTruth, build_scene
from export.demo.train import FIRST_TRAINING_SEED
from orchestrator.core.contract import CANDIDATES, FRAMES
from orchestrator.core.letterbox import boxes_to_source, fit_letterbox, letterbox_into
from tests.support.needs import ROOT

MODEL: Final = ROOT / "model_repository" / "demo_shapes" / "1" / "model.onnx"
CLIP: Final = ROOT / "export" / "demo" / "clip.mp4"
IMGSZ, STRIDE = 320, 32
UNSEEN_SEEDS: Final = range(100, 112)
SECONDS: Final = 2


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


def frames_of(video: Path) -> Iterator[NDArray[np.uint8]]:
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def detect(session: onnxruntime.InferenceSession, video: Path) -> list[NDArray[np.float32]]:
    """For each frame float32 (K, 6), boxes in source px."""
    found = []
    for frame in frames_of(video):
        height, width = frame.shape[:2]
        box = fit_letterbox(width, height, imgsz=IMGSZ, stride=STRIDE)
        row = np.empty((1, box.model_h_px, box.model_w_px, 3), dtype=np.uint8)
        letterbox_into(row[0], frame, box)
        (candidates,) = session.run([CANDIDATES], {FRAMES: row})
        kept = candidates[0][candidates[0][:, 4] > 0]
        found.append(np.concatenate([boxes_to_source(kept[:, :4], box), kept[:, 4:]], axis=1))
    return found


def test_map50_on_unseen_videos_is_090_or_more(session: onnxruntime.InferenceSession, tmp_path: Path) -> None:
    assert max(UNSEEN_SEEDS) < FIRST_TRAINING_SEED
    found: list[NDArray[np.float32]] = []
    truths: list[FrameTruth] = []
    for seed in UNSEEN_SEEDS:
        video = tmp_path / f"{seed}.mp4"
        truths += write_clip(video, build_scene(seed), frame_count=SECONDS * FPS)
        found += detect(session, video)
    assert len(found) == len(truths) == len(UNSEEN_SEEDS) * SECONDS * FPS
    assert mean_average_precision(found, truths) >= 0.9


def test_map50_on_the_committed_clip_is_090_or_more(session: onnxruntime.InferenceSession) -> None:
    assert mean_average_precision(detect(session, CLIP), load_truth(CLIP.with_suffix(".json"))) >= 0.9
