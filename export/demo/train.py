"""Trains the demo's detector: a YOLO11 of an eighth of the width, on scenes that are drawn as they are needed.

No frame is seen twice, so there is nothing to overfit and nothing to augment but sizes and compression. The result is
an ordinary Ultralytics checkpoint, which the export takes like any other.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from export.demo.scene import CLASS_NAMES, FrameTruth, build_scene, draw_frame
from export.to_onnx import load_source
from orchestrator.core.letterbox import fit_letterbox, letterbox_into

IMGSZ: Final = 320
STRIDE: Final = 32
# Depth, width and most channels, in the words of Ultralytics' model files: 0.8 million parameters.
SCALE: Final = [0.50, 0.125, 1024]
BATCH: Final = 16
FRAMES_PER_SCENE: Final = 4
SCENE_SECONDS: Final = 40
# Frame sizes in px and how often each is drawn.
FRAME_SIZES: Final = {(640, 360): 0.7, (480, 480): 0.15, (360, 640): 0.15}
# Seeds under this one are for the demo clip and for measuring; the training never sees them.
FIRST_TRAINING_SEED: Final = 1_000_000
PEAK_RATE: Final = 2e-3
WARM_UP: Final = 0.03
AVERAGE_DECAY: Final = 0.998


@dataclass(frozen=True, slots=True)
class Budget:
    """The training ends after `steps` batches or `seconds`, whichever is first."""

    steps: int
    seconds: float


def train(
    path: Path,
    budget: Budget,
    *,
    first_seed: int,
    start: Path | None,
    now: Callable[[], float],
    say: Callable[[str], None],
) -> None:
    """Train from nothing, or from the checkpoint `start`, and write the checkpoint to `path`.

    first_seed: of the scenes, not under FIRST_TRAINING_SEED; a second training takes another. now: seconds.
    """
    if first_seed < FIRST_TRAINING_SEED:
        raise ValueError(f"seeds under {FIRST_TRAINING_SEED} are for measuring, not for training")
    torch.manual_seed(first_seed)
    network = build_network()
    if start is not None:
        network.load_state_dict(load_source(start, IMGSZ).detector.state_dict())
    average = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(_groups(network), lr=PEAK_RATE, betas=(0.9, 0.99))
    started = now()
    for step, batch in enumerate(draw_batches(first_seed)):
        progress = max(step / budget.steps, (now() - started) / budget.seconds)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate_at(progress)
        loss, _ = network.loss(batch)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        _move_average(average, network, min(AVERAGE_DECAY, (1 + step) / (10 + step)))
        if step % 50 == 0:
            say(f"step {step}: loss {loss.detach().sum().item() / BATCH:.3f}, {progress:.0%} of the budget")
    save_checkpoint(average, path)


def build_network() -> DetectionModel:
    """The untrained detector, in training mode, with the loss' weights that Ultralytics uses."""
    layout = yaml_model_load("yolo11n.yaml")
    layout |= {"scales": {"n": SCALE}, "nc": len(CLASS_NAMES)}
    network = DetectionModel(layout, ch=3, nc=len(CLASS_NAMES), verbose=False)
    network.names = dict(enumerate(CLASS_NAMES))
    network.args = get_cfg(overrides={"task": "detect", "imgsz": IMGSZ})
    return network.train()


def rate_at(progress: float) -> float:
    """The learning rate's share of its peak: a short rise, then half a cosine down to a hundredth."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2


def draw_batches(first_seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end, each of one frame size, as `DetectionModel.loss` takes them."""
    rng = np.random.default_rng(first_seed)
    sizes, weights = list(FRAME_SIZES), list(FRAME_SIZES.values())
    seed = first_seed
    while True:
        width_px, height_px = sizes[rng.choice(len(sizes), p=weights)]
        rows: list[NDArray[np.uint8]] = []
        truths: list[FrameTruth] = []
        for _ in range(BATCH // FRAMES_PER_SCENE):
            scene = build_scene(seed, width_px=width_px, height_px=height_px)
            seed += 1
            for time_s in rng.uniform(0, SCENE_SECONDS, FRAMES_PER_SCENE):
                frame, truth = draw_frame(scene, float(time_s))
                rows.append(_letterboxed(_compressed(frame, rng)))
                truths.append(truth)
        yield _to_batch(np.stack(rows), truths, width_px, height_px)


def save_checkpoint(network: DetectionModel, path: Path) -> None:
    """Write `network` the way Ultralytics reads it, in half precision."""
    weights = copy.deepcopy(network).half()
    arguments = {"task": "detect", "imgsz": IMGSZ}
    weights.args = arguments
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights, "train_args": arguments, "epoch": -1, "date": None}, path)


def _groups(network: DetectionModel) -> list[dict[str, Any]]:
    """Weight decay for matrices only: biases and norms are not shrunk."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]


def _move_average(average: DetectionModel, network: DetectionModel, decay: float) -> None:
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def _compressed(frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The frame as a video's compression leaves it: JPEG spoils edges the same way and is quick to make."""
    quality = int(rng.integers(30, 96))
    _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), dtype=np.uint8)


def _letterboxed(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    box = fit_letterbox(width, height, imgsz=IMGSZ, stride=STRIDE)
    row = np.empty((box.model_h_px, box.model_w_px, 3), dtype=np.uint8)
    letterbox_into(row, frame, box)
    return row


def _to_batch(
    rows: NDArray[np.uint8], truths: list[FrameTruth], width_px: int, height_px: int
) -> dict[str, torch.Tensor]:
    """rows: uint8 (N, H, W, 3). Boxes become centre and size as shares of the letterboxed frame."""
    box = fit_letterbox(width_px, height_px, imgsz=IMGSZ, stride=STRIDE)
    model = np.array([box.model_w_px, box.model_h_px] * 2, dtype=np.float32)
    corners = np.concatenate([truth.boxes_xyxy for truth in truths]) * np.float32(box.scale)
    corners = (corners + np.array([box.pad_x_px, box.pad_y_px] * 2, dtype=np.float32)) / model
    centred = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    counts = [len(truth.class_ids) for truth in truths]
    class_ids = np.concatenate([truth.class_ids for truth in truths])
    return {
        "img": torch.from_numpy(np.ascontiguousarray(rows.transpose(0, 3, 1, 2))).float() / 255,
        "batch_idx": torch.from_numpy(np.repeat(np.arange(len(truths)), counts)).float(),
        "cls": torch.from_numpy(class_ids).float()[:, None],
        "bboxes": torch.from_numpy(centred),
    }


def train_on_one_thread(
    path: Path, budget: Budget, *, first_seed: int, start: Path | None, say: Callable[[str], None]
) -> None:
    """Train, and leave the rest of the machine to others."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    train(path, budget, first_seed=first_seed, start=start, now=time.monotonic, say=say)
