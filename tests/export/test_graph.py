"""The served graph keeps the boxes that Ultralytics keeps, at every position of a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from ultralytics.utils.nms import non_max_suppression

from export.comparison import FLOAT16, FLOAT32, Comparison, compare_frames
from export.graph import Head, build_choice, join_to_contract
from export.spec import Precision
from export.to_onnx import answer_of_source, export_raw
from orchestrator.core.contract import CANDIDATES, FRAMES
from orchestrator.errors import ExportError
from tests.export.detectors import CLASS_NAMES, crops, source_of

FLOOR, IOU = 0.05, 0.7
BATCH = 8

# Raw heads of crowds: boxes around a few centres, so that most of them overlap.


def crowd(seed: int, *, frames: int, classes: int, anchors: int, over_floor: int) -> NDArray[np.float32]:
    """float32 (frames, 4 + classes, anchors): about `over_floor` anchors a frame score over the floor."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 640, (12, 2))
    places = centres[rng.integers(12, size=(frames, anchors))] + rng.normal(0, 12, (frames, anchors, 2))
    sizes = rng.uniform(20, 160, (frames, anchors, 2))
    scores = rng.uniform(0, 0.04, (frames, anchors, classes))
    strong = rng.random((frames, anchors)) < over_floor / anchors
    scores[strong] += rng.uniform(0, 0.95, (int(strong.sum()), 1)) * rng.random((int(strong.sum()), classes))
    return np.concatenate([places, sizes, scores], axis=2).transpose(0, 2, 1).astype(np.float32)


def chosen(raw: NDArray[np.float32], *, floor: float = FLOOR, iou: float = IOU) -> NDArray[np.float32]:
    graph = build_choice(Head.ONE_TO_MANY, class_count=raw.shape[1] - 4, floor=floor, iou=iou)
    return run(graph, {"raw": raw})[CANDIDATES]


def ultralytics_chosen(raw: NDArray[np.float32], *, floor: float = FLOOR, iou: float = IOU) -> list[torch.Tensor]:
    # Unless told to be patient it leaves frames empty on a slow machine.
    found: list[torch.Tensor] = non_max_suppression(torch.from_numpy(raw), floor, iou, max_det=300, max_time_img=600)
    return found


def run(graph: onnx.ModelProto, inputs: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_same(candidates: NDArray[np.float32], expected: list[torch.Tensor]) -> None:
    """Every row equal to 0.0001 px, in the same order, and nothing after the last."""
    for position, (answer, rows) in enumerate(zip(candidates, expected, strict=True)):
        count = len(rows)
        np.testing.assert_allclose(answer[:count], rows.numpy(), atol=1e-4, rtol=0, err_msg=f"position {position}")
        assert not answer[count:].any(), f"position {position} has rows after the last"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [1, 3, 80])
def test_suppression_is_ultralytics_own_at_every_position(seed: int, classes: int) -> None:
    raw = crowd(seed, frames=BATCH, classes=classes, anchors=5040, over_floor=473)
    expected = ultralytics_chosen(raw)
    assert min(len(rows) for rows in expected) > 20
    assert_same(chosen(raw), expected)


@pytest.mark.parametrize("anchors", [21, 84, 299, 300, 301, 999, 1000, 1001])
def test_few_anchors_lose_nothing(anchors: int) -> None:
    raw = crowd(5, frames=3, classes=3, anchors=anchors, over_floor=anchors)
    assert_same(chosen(raw), ultralytics_chosen(raw))


def test_a_low_floor_lets_more_anchors_through() -> None:
    raw = crowd(6, frames=2, classes=3, anchors=3800, over_floor=1200)
    assert_same(chosen(raw, floor=0.001), ultralytics_chosen(raw, floor=0.001))


def test_frames_with_nothing_are_zero_whoever_stands_beside_them() -> None:
    raw = crowd(7, frames=4, classes=3, anchors=1200, over_floor=200)
    raw[[0, 2], 4:] = 0
    candidates = chosen(raw)
    assert not candidates[[0, 2]].any()
    assert candidates[1].any()
    assert candidates[3].any()


def test_a_batch_with_nothing_at_all_is_zero() -> None:
    raw = crowd(8, frames=2, classes=3, anchors=1200, over_floor=0)
    assert not chosen(raw).any()


def test_boxes_of_different_classes_never_suppress_each_other() -> None:
    raw = np.zeros((1, 6, 40), dtype=np.float32)
    raw[0, :4, :2] = [[100], [100], [50], [50]]
    raw[0, 4, 0] = raw[0, 5, 1] = 0.9
    assert sorted(chosen(raw)[0, :3, 5].tolist()) == [0, 0, 1]
    assert chosen(raw)[0, :3, 4].tolist() == pytest.approx([0.9, 0.9, 0])


@pytest.mark.parametrize("kind", ["yolov8n", "yolo11n", "yolo26n"])
def test_whole_graph_answers_like_the_source_network(tmp_path: Path, kind: str) -> None:
    source = source_of(tmp_path, kind)
    graph = join_to_contract(export_raw(source), head=source.head, class_count=len(CLASS_NAMES), floor=FLOOR, iou=IOU)
    comparison = Comparison(limits=FLOAT32)
    for height_px, width_px in ((96, 160), (32, 160), (64, 64)):
        frames = crops(3, height_px, width_px)
        answer = answer_of_source(source, frames, floor=FLOOR, iou=IOU)
        compare_frames(answer.boxes, run(graph, {FRAMES: frames})[CANDIDATES], comparison, f"{width_px}x{height_px}")
    assert comparison.failures == []
    assert comparison.boxes > 50


# YOLO11 as float16 is in test_certificate and test_publish.
@pytest.mark.parametrize("kind", ["yolov8n", "yolo26n"])
def test_a_float16_network_answers_like_its_source_up_to_the_decoded_head(tmp_path: Path, kind: str) -> None:
    source = source_of(tmp_path, kind, is_calm=True)
    raw = export_raw(source, Precision.FLOAT16)
    graph = join_to_contract(raw, head=source.head, class_count=len(CLASS_NAMES), floor=FLOOR, iou=IOU)
    comparison = Comparison(limits=FLOAT16, suppression_iou=IOU if source.head is Head.ONE_TO_MANY else None)
    for height_px, width_px in ((96, 160), (32, 160), (64, 64)):
        frames = crops(3, height_px, width_px)
        answer = answer_of_source(source, frames, floor=FLOOR, iou=IOU)
        compare_frames(answer.boxes, run(graph, {FRAMES: frames})[CANDIDATES], comparison, f"{width_px}x{height_px}")
    assert comparison.faults() == []
    assert comparison.boxes > 50

    types = types_in(raw)
    layers = [node for node in raw.graph.node if node.op_type == "Conv" and "/dfl/" not in node.name]
    assert {types[name] for node in layers for name in (*node.input, *node.output)} == {onnx.TensorProto.FLOAT16}
    last_sigmoid = next(node for node in reversed(raw.graph.node) if node.op_type == "Sigmoid")
    decoding = [last_sigmoid, *(node for node in raw.graph.node if "/dfl/" in node.name and node.op_type == "Conv")]
    assert len(decoding) == (2 if kind == "yolov8n" else 1)
    assert {types[name] for node in decoding for name in (*node.input, *node.output)} == {onnx.TensorProto.FLOAT}


def types_in(graph: onnx.ModelProto) -> dict[str, int]:
    """The element type of each tensor, by its name."""
    inner = onnx.shape_inference.infer_shapes(graph).graph
    values = [*inner.value_info, *inner.input, *inner.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inner.initializer}


def test_the_same_weights_give_the_same_graph(tmp_path: Path) -> None:
    source = source_of(tmp_path, "yolov8n")
    first, second = (
        join_to_contract(export_raw(source), head=source.head, class_count=len(CLASS_NAMES), floor=FLOOR, iou=IOU)
        for _ in range(2)
    )
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@pytest.mark.parametrize("kind", ["yolo26n", "yolov10n"])
def test_one_to_one_heads_are_recognised(tmp_path: Path, kind: str) -> None:
    assert source_of(tmp_path, kind).head is Head.ONE_TO_ONE


@pytest.mark.parametrize("kind", ["yolov8n", "yolo11n"])
def test_one_to_many_heads_are_recognised(tmp_path: Path, kind: str) -> None:
    assert source_of(tmp_path, kind).head is Head.ONE_TO_MANY


def test_networks_of_another_opset_are_refused() -> None:
    network = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 19]> g (float[n,3,h,w] images) => (float[n,3,h,w] output0)'
        "{ output0 = Identity (images) }"
    )
    with pytest.raises(ExportError, match="opset 17"):
        join_to_contract(network, head=Head.ONE_TO_MANY, class_count=3, floor=FLOOR, iou=IOU)


def test_networks_that_are_no_detectors_are_refused() -> None:
    network = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n,3,h,w] images) => (float[n,3,h,w] output0)'
        "{ output0 = Identity (images) }"
    )
    with pytest.raises(ExportError, match="is it a detector"):
        join_to_contract(network, head=Head.ONE_TO_MANY, class_count=3, floor=FLOOR, iou=IOU)
