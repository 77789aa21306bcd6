"""The trtexec command that is told where TensorRT is not installed."""

from __future__ import annotations

from pathlib import Path

from export.to_tensorrt import shape_profile, trtexec_command
from export.triton_config import TENSORRT
from orchestrator.core.contract import ModelCard

CARD = ModelCard(
    class_names=("circle",),
    stride=32,
    imgsz=640,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest="d" * 64,
    weights_sha256="w" * 64,
    certificate="passed",
)


def test_profile_spans_all_that_triton_may_batch() -> None:
    profile = shape_profile(CARD)
    assert profile.smallest == (1, 32, 32, 3)
    assert profile.usual == (8, 384, 640, 3)
    assert profile.largest == (TENSORRT.max_batch, 640, 640, 3)


def test_command_names_files_and_shapes_and_keeps_the_types_of_the_graph() -> None:
    assert trtexec_command(CARD, Path("models/a b/1")).split(" --") == [
        "trtexec",
        "stronglyTyped '--onnx=models/a b/1/model.onnx' '--saveEngine=models/a b/1/model.plan'",
        "minShapes=frames:1x32x32x3",
        "optShapes=frames:8x384x640x3",
        "maxShapes=frames:32x640x640x3",
    ]
