"""Builds a TensorRT plan of a served graph, or tells the command that does.

A plan fits one kind of GPU and one version of TensorRT, so it is built where it will run; the other two
configurations need none. A plan is not covered by the certificate, which the outcome says.

A plan computes in the types that the graph has. TensorRT 11 knows nothing else and ignores being told so; TensorRT 10
would choose types itself, and with `--fp16` take float16 wherever that is faster, also for boxes in pixels.
"""

from __future__ import annotations

import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from export.triton_config import GRAPH_FILE, PLAN_FILE, TENSORRT, USUAL_SOURCE_H_PX, USUAL_SOURCE_W_PX
from orchestrator.core.contract import FRAME_CHANNELS, FRAMES, ModelCard
from orchestrator.core.letterbox import fit_letterbox
from orchestrator.errors import ExportError

USUAL_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class ShapeProfile:
    """Shapes (N, H, W, 3) that a plan takes: smallest, the one it is tuned for, largest."""

    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]


def shape_profile(card: ModelCard) -> ShapeProfile:
    """What the contract allows and `configs/tensorrt.pbtxt` batches, tuned for 16:9."""
    box = fit_letterbox(USUAL_SOURCE_W_PX, USUAL_SOURCE_H_PX, imgsz=card.imgsz, stride=card.stride)
    return ShapeProfile(
        smallest=(1, card.stride, card.stride, FRAME_CHANNELS),
        usual=(USUAL_BATCH, box.model_h_px, box.model_w_px, FRAME_CHANNELS),
        largest=(TENSORRT.max_batch, card.imgsz, card.imgsz, FRAME_CHANNELS),
    )


def trtexec_command(card: ModelCard, version_folder: Path) -> str:
    """The command line, to be run on the serving GPU."""
    profile = shape_profile(card)
    shapes = {"minShapes": profile.smallest, "optShapes": profile.usual, "maxShapes": profile.largest}
    words = [
        "trtexec",
        "--stronglyTyped",
        f"--onnx={version_folder / GRAPH_FILE}",
        f"--saveEngine={version_folder / PLAN_FILE}",
    ]
    words += [f"--{option}={FRAMES}:{'x'.join(map(str, shape))}" for option, shape in shapes.items()]
    return shlex.join(words)


def has_tensorrt() -> bool:
    return importlib.util.find_spec("tensorrt") is not None


def build_plan(graph: Path, plan: Path, card: ModelCard) -> None:
    """Build `plan` from the ONNX file `graph` on this machine's GPU. Raises ExportError with TensorRT's complaints."""
    import tensorrt as trt  # Only GPU machines have it.

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"TensorRT cannot read the graph: {_complaints(parser)}")
    config = builder.create_builder_config()
    profile, shapes = builder.create_optimization_profile(), shape_profile(card)
    profile.set_shape(FRAMES, shapes.smallest, shapes.usual, shapes.largest)
    config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ExportError("TensorRT could not build a plan of the graph; its messages above say why")
    plan.write_bytes(bytes(serialized))


def _complaints(parser: Any) -> str:
    return "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
