"""Reads Ultralytics weights and writes their network as plain ONNX: the only home of torch and ultralytics.

Both sides of a certificate start here: the source network, run by PyTorch as Ultralytics runs it, and the raw ONNX
graph that `graph.py` joins to the contract.
"""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxslim
import torch
import ultralytics
from numpy.typing import NDArray
from ultralytics.nn.modules.head import Detect, v10Detect
from ultralytics.nn.tasks import torch_safe_load
from ultralytics.utils.nms import non_max_suppression

from export.certificate import SourceAnswer
from export.graph import OPSET, RAW_INPUT, RAW_OUTPUT, Head
from export.spec import Precision
from orchestrator.core.contract import DEFAULT_IMGSZ, MAX_CANDIDATES
from orchestrator.errors import ExportError

# Other heads (segments, poses, oriented boxes, open vocabularies) answer more than the contract can carry.
DETECTOR_HEADS: Final = (Detect, v10Detect)
# What Ultralytics raises for files that are no checkpoint of a known kind (8.4.190).
UNREADABLE: Final = (TypeError, AttributeError, RuntimeError, ValueError, KeyError, EOFError, ModuleNotFoundError)
# Ultralytics letterboxes to multiples of 32 px at least, whatever the network's own stride.
LEAST_STRIDE: Final = 32
# Ultralytics' suppression gives up after a while and leaves the rest of a batch without boxes.
PATIENCE_S: Final = 600.0
# A folder with a street full of people and two men, which come with Ultralytics.
PICTURES: Final = Path(ultralytics.ASSETS)
# Tracing needs some frames; sides and batch that differ from each other would show a mix-up.
TRACED_SHAPE: Final = (2, 3, 64, 96)
# Convolutions of a head, for each scale a branch of boxes and one of scores; a head that was fused has one pair.
HEAD_BRANCHES: Final = ("cv2", "cv3", "one2one_cv2", "one2one_cv3")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNetwork:
    """A detector as its checkpoint has it: float32, in evaluation mode. imgsz, stride: px."""

    detector: Any
    head: Head
    kind: str
    class_names: tuple[str, ...]
    stride: int
    imgsz: int
    weights_sha256: str


def build_raw(detector: Any, *, is_fused: bool) -> Any:
    """A copy of a detector that stops at its decoded head: (N, 3, H, W) in 0..1 -> (N, 4 + classes, anchors)."""
    raw = copy.deepcopy(detector)
    if is_fused:
        raw.fuse(verbose=False)
    head = raw.model[-1]
    head.export = True  # the decoded tensor alone
    head.dynamic = True  # anchors follow the size of the frame
    if head.end2end:
        # The one-to-one head's selection is left to the graph, which also takes frames of under 300 anchors.
        head.postprocess = lambda rows: rows.permute(0, 2, 1)
    return raw.eval()


def halve(raw: Any) -> Any:
    """Turn a raw network, in place, to float16 from its first layer to the last convolutions of its head.

    Input and output stay float32, and so does all that comes after those convolutions. Over 512 px float16 has steps
    of half a pixel. Of yolo11n's 3,387 anchors over 0.25 on Ultralytics' pictures 387 would have the very score of
    another if the last sigmoid were float16, 87 if only what it is given is, none in float32; suppression would choose
    between them. Centres of anchors are whole and half cells of the grid, which float16 holds exactly up to 1,024.
    """
    *layers, head = raw.model
    branches = [branch for name in HEAD_BRANCHES if (branch := getattr(head, name, None)) is not None]
    for part in (*layers, *branches):
        part.half()
    raw.register_forward_pre_hook(lambda _network, inputs: (inputs[0].half(),))
    for scale in itertools.chain.from_iterable(branches):
        scale[-1].register_forward_hook(lambda _layer, _inputs, answers: answers.float())
    return raw


def load_source(weights: Path, imgsz: int | None) -> SourceNetwork:
    """Read a checkpoint without running code from it. Raises ExportError if it is none, or not of a detector."""
    checkpoint, detector = _read_checkpoint(weights)
    head = detector.model[-1]
    if getattr(head, "one2one_cv2", None) is not None:
        # YOLO26 and YOLOv10 carry both heads; Ultralytics 8.4.190 takes this one with `nms=False`.
        head.end2end = True
    stride = max(int(detector.stride.max()), LEAST_STRIDE)
    chosen = imgsz or _trained_imgsz(checkpoint, detector)
    if chosen % stride:
        raise ExportError(f"imgsz {chosen} is not a multiple of the network's stride {stride}")
    names = detector.names
    return SourceNetwork(
        detector=detector,
        head=Head.ONE_TO_ONE if head.end2end else Head.ONE_TO_MANY,
        kind=Path(str(detector.yaml.get("yaml_file", "unknown"))).stem,
        class_names=tuple(str(names[number]) for number in range(head.nc)),
        stride=stride,
        imgsz=chosen,
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
    )


def answer_of_source(source: SourceNetwork, frames: NDArray[np.uint8], *, floor: float, iou: float) -> SourceAnswer:
    """Run the source network as `ultralytics predict` does. frames: uint8 (N, H, W, 3), letterboxed."""
    images = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 255
    with torch.inference_mode():
        raw = build_raw(source.detector, is_fused=False)(images)
        is_end2end = source.head is Head.ONE_TO_ONE
        rows = source.detector.model[-1].postprocess(raw.permute(0, 2, 1)) if is_end2end else raw.clone()
        boxes = non_max_suppression(
            rows, floor, iou, max_det=MAX_CANDIDATES, end2end=is_end2end, max_time_img=PATIENCE_S
        )
    return SourceAnswer(raw=raw.numpy(), boxes=tuple(found.numpy() for found in boxes))


def export_raw(source: SourceNetwork, precision: Precision = Precision.FLOAT32) -> onnx.ModelProto:
    """Trace the fused network into ONNX with dynamic batch, height and width, as `join_to_contract` takes it."""
    network = build_raw(source.detector, is_fused=True)
    if precision is Precision.FLOAT16:
        halve(network)
    written = io.BytesIO()
    axes = {RAW_INPUT: {0: "batch", 2: "height", 3: "width"}, RAW_OUTPUT: {0: "batch", 2: "anchors"}}
    with warnings.catch_warnings(), torch.inference_mode():
        # torch 2.13 calls this exporter deprecated and each shape it reads a risk; the certificate checks the result.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(TRACED_SHAPE),),
            written,
            opset_version=OPSET,
            input_names=[RAW_INPUT],
            output_names=[RAW_OUTPUT],
            dynamic_axes=axes,
            dynamo=False,
        )
    return onnxslim.slim(onnx.load_from_string(written.getvalue()))


def _read_checkpoint(weights: Path) -> tuple[Mapping[str, Any], Any]:
    """What the file holds, and its detector: the averaged one where there are two."""
    if not zipfile.is_zipfile(weights):
        raise ExportError(f"{weights} is not a PyTorch checkpoint, or is cut off; download or copy it again")
    try:
        checkpoint, _ = torch_safe_load(str(weights), safe_only=True)
        detector = checkpoint.get("ema") or checkpoint["model"]
        head = detector.model[-1]
    except UNREADABLE as exc:
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise ExportError(f"{weights} is not an Ultralytics checkpoint that can be read safely: {reason}") from exc
    if type(head) not in DETECTOR_HEADS:
        raise ExportError(f"{weights} holds a {type(head).__name__} network; only detectors can be served")
    return checkpoint, detector.float().eval()


def _trained_imgsz(checkpoint: Mapping[str, Any], detector: Any) -> int:
    """The size in the training's arguments; what Ultralytics assumes where there is none."""
    arguments = checkpoint.get("train_args") or getattr(detector, "args", None) or {}
    size = arguments.get("imgsz") if isinstance(arguments, Mapping) else getattr(arguments, "imgsz", None)
    return size if isinstance(size, int) else DEFAULT_IMGSZ
