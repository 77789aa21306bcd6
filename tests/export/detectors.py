"""Detectors of Ultralytics' own architectures with weights of our own: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from export.evidence import gather_evidence
from export.to_onnx import PICTURES, SourceNetwork, load_source

CLASS_NAMES: Final = ("ant", "bee", "cat", "dog", "elk")
# Changes a last layer of a head, given what it answers to pictures and then to noise.
Scale = Callable[..., None]
# Small, since tests have the time of everybody who runs them.
IMGSZ: Final = 160


@cache
def bus() -> NDArray[np.uint8]:
    """A street scene with people, uint8 (H, W, 3) RGB; read-only."""
    picture = cv2.imread(str(PICTURES / "bus.jpg"), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def crops(count: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Different parts of a picture, uint8 (count, H, W, 3)."""
    picture = bus()
    rng = np.random.default_rng(0)
    corners = [(int(rng.integers(0, 500)), int(rng.integers(0, 400))) for _ in range(count)]
    parts = [picture[y : y + 580, x : x + 410] for y, x in corners]
    return np.stack([np.asarray(cv2.resize(part, (width_px, height_px)), dtype=np.uint8) for part in parts])


def write_checkpoint(path: Path, kind: str, *, imgsz: int = IMGSZ, is_calm: bool = False) -> Path:
    """Write a checkpoint of a `kind` such as "yolo11n" whose random weights find a crowd of boxes in pictures.

    is_calm: boxes too small to overlap, and classes that stand apart, so that little hangs on the last bits.
    """
    torch.manual_seed(0)
    detector = DetectionModel(f"{kind}.yaml", ch=3, nc=len(CLASS_NAMES), verbose=False)
    _calibrate(detector)
    _spread_answers(detector, CALM if is_calm else CROWDED)
    detector.names = dict(enumerate(CLASS_NAMES))
    torch.save({"model": detector.half(), "train_args": {"task": "detect", "imgsz": imgsz}}, path)
    return path


def source_of(folder: Path, kind: str, *, imgsz: int = IMGSZ, is_calm: bool = False) -> SourceNetwork:
    return load_source(write_checkpoint(folder / f"{kind}.pt", kind, imgsz=imgsz, is_calm=is_calm), None)


def _calibrate(detector: Any) -> None:
    """Let the norms see what certificates show; untrained ones let activations fade or explode."""
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean of all batches
    detector.train()
    with torch.no_grad():
        for images in _batches():
            detector(images)
    detector.eval()


def _spread_answers(detector: Any, scales: Mapping[str, Scale]) -> None:
    """Scale the last layers so that pictures are full of strong boxes, and noise has none that are certain.

    Scores that are 1 to the last bit have no order, so nothing could be compared.
    """
    mosaics, _, noise, *_ = _batches()
    head = detector.model[-1]
    hooks = [
        branch[-1].register_forward_hook(partial(scale, pictures=len(mosaics)))
        for name, scale in scales.items()
        for branch in [*getattr(head, name), *(getattr(head, f"one2one_{name}", None) or [])]
    ]
    with torch.no_grad():
        detector(torch.cat([mosaics, noise]))
    for hook in hooks:
        hook.remove()


def _scale_boxes(layer: Any, _inputs: object, answers: torch.Tensor, *, pictures: int) -> None:
    unbiased = (answers - layer.bias[None, :, None, None])[:pictures]
    with torch.no_grad():
        gain = 0.15 / unbiased.std()
        layer.weight *= gain
        layer.bias[:] = 4.0 - gain * unbiased.mean()


def _scale_scores(layer: Any, _inputs: object, answers: torch.Tensor, *, pictures: int) -> None:
    unbiased = answers - layer.bias[None, :, None, None]
    with torch.no_grad():
        gain = 1.5 / unbiased[pictures:].std()
        layer.weight *= gain
        layer.bias[:] = -0.9 - gain * unbiased[:pictures].mean()


def _shrink_boxes(layer: Any, _inputs: object, answers: torch.Tensor, *, pictures: int) -> None:
    """Sides of about half a cell of the grid; the answers are distances, or 16 bins for each."""
    unbiased = answers - layer.bias[None, :, None, None]
    bins = torch.arange(len(layer.bias) // 4)
    with torch.no_grad():
        gain = 0.05 / unbiased.std()
        layer.weight *= gain
        wanted = torch.full((4,), 0.6) if len(bins) == 1 else -bins.float().repeat(4)
        layer.bias[:] = wanted - gain * unbiased[:pictures].mean((0, 2, 3))


def _part_scores(layer: Any, _inputs: object, answers: torch.Tensor, *, pictures: int) -> None:
    """One class over 0.25 and the others far below it; on the finest grid nothing, or frames would be full."""
    unbiased = answers - layer.bias[None, :, None, None]
    is_finest = answers.shape[-1] == IMGSZ // 8
    wanted = torch.linspace(-3.0, -0.5, len(layer.bias)) - (6.0 if is_finest else 0.0)
    with torch.no_grad():
        gain = 0.3 / unbiased[pictures:].std()
        layer.weight *= gain
        layer.bias[:] = wanted - gain * unbiased[:pictures].mean((0, 2, 3))


CROWDED: Final[Mapping[str, Scale]] = {"cv2": _scale_boxes, "cv3": _scale_scores}
CALM: Final[Mapping[str, Scale]] = {"cv2": _shrink_boxes, "cv3": _part_scores}


@cache
def _batches() -> list[torch.Tensor]:
    evidence = gather_evidence([bus()], imgsz=IMGSZ, stride=32)
    return [torch.from_numpy(item.frames.transpose(0, 3, 1, 2).copy()).float() / 255 for item in evidence]
