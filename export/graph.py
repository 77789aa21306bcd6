"""Joins a raw detection network to the contract of `orchestrator/core/contract.py`.

    frames uint8 NHWC -> float planes -> network -> best class of each anchor -> top K -> suppression -> (N, 300, 6)

The two joints are written in ONNX's own text syntax. Suppression repeats Ultralytics' arithmetic, class offset
included, so that both keep the same boxes at every position of a batch.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import onnx
import onnx.compose
import onnx.helper
import onnx.parser

from orchestrator.core.contract import CANDIDATES, FRAMES, MAX_CANDIDATES
from orchestrator.errors import ExportError

# ONNX Runtime's CUDA provider has no Resize-19 and ReduceMax-20: from opset 19 on they run on the CPU.
OPSET: Final = 17
IR_VERSION: Final = 8
# Anchors that reach suppression. A crowded frame has 473 over a floor of 0.05, and 300 lost boxes; versions with
# a lower floor take all that TensorRT's top-K allows.
USUAL_ANCHORS: Final = 1_000
MOST_ANCHORS: Final = 3_840
LOWEST_USUAL_FLOOR: Final = 0.05
# Ultralytics' `max_wh`: boxes of different classes are moved this many pixels apart, so they never overlap.
CLASS_OFFSET_PX: Final = 7_680

RAW_INPUT: Final = "images"
RAW_OUTPUT: Final = "output0"
NETWORK_PREFIX: Final = "network."


class Head(StrEnum):
    """What the raw output `(N, 4 + classes, anchors)` holds."""

    ONE_TO_MANY = "one_to_many"  # centre, width, height; several anchors a thing: needs suppression
    ONE_TO_ONE = "one_to_one"  # two corners; one anchor a thing (YOLO26, YOLOv10): the best 300 are the answer


def join_to_contract(
    raw: onnx.ModelProto, *, head: Head, class_count: int, floor: float, iou: float
) -> onnx.ModelProto:
    """Build the served graph around a raw network; `raw` is only read.

    raw: input `images` float32 (N, 3, H, W) in 0..1, output `output0` float32 (N, 4 + class_count, anchors) in pixels
    of the input; N, H and W dynamic. floor: rows at or under this confidence are zero. iou: of the suppression, unused
    by one-to-one heads. Raises ExportError if the network has other inputs or outputs, or another opset.
    """
    _refuse_other_networks(raw, class_count)
    network = onnx.ModelProto()
    network.CopyFrom(raw)
    network.ir_version = IR_VERSION
    network = onnx.compose.add_prefix(network, NETWORK_PREFIX)
    raw_input, raw_output = NETWORK_PREFIX + RAW_INPUT, NETWORK_PREFIX + RAW_OUTPUT

    prepared = onnx.compose.merge_models(
        onnx.parser.parse_model(PREPARATION), network, io_map=[("prepared", raw_input)]
    )
    choice = build_choice(head, class_count=class_count, floor=floor, iou=iou)
    joined = onnx.compose.merge_models(prepared, choice, io_map=[(raw_output, "raw")])
    joined.graph.name = "trireel"
    del joined.metadata_props[:]
    # Shapes that tools inferred on the way: up to a megabyte, and not the same in two exports of one network.
    del joined.graph.value_info[:]
    onnx.checker.check_model(joined, full_check=True)
    return joined


def build_choice(head: Head, *, class_count: int, floor: float, iou: float) -> onnx.ModelProto:
    """The graph after the network: `raw` float32 (N, 4 + class_count, anchors) -> `candidates` (N, 300, 6)."""
    text = _suppression(class_count, floor, iou) if head is Head.ONE_TO_MANY else _selection(class_count, floor)
    return onnx.parser.parse_model(text)


def expose_raw(joined: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a served graph that also answers its network's raw output, float32 (N, 4 + classes, anchors)."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(joined)
    shape = ["batch", "channels", "anchors"]
    exposed.graph.output.append(
        onnx.helper.make_tensor_value_info(NETWORK_PREFIX + RAW_OUTPUT, onnx.TensorProto.FLOAT, shape)
    )
    return exposed


def _refuse_other_networks(raw: onnx.ModelProto, class_count: int) -> None:
    opsets = {entry.version for entry in raw.opset_import if entry.domain in ("", "ai.onnx")}
    if opsets != {OPSET}:
        raise ExportError(f"the network must be exported with opset {OPSET}, but has {sorted(opsets)}")
    inputs, outputs = [value.name for value in raw.graph.input], [value.name for value in raw.graph.output]
    if inputs != [RAW_INPUT] or outputs != [RAW_OUTPUT]:
        raise ExportError(f"the network takes {inputs} and gives {outputs}; expected {RAW_INPUT} and {RAW_OUTPUT}")
    rows = raw.graph.output[0].type.tensor_type.shape.dim
    if len(rows) != 3 or rows[1].dim_value not in (0, 4 + class_count):
        raise ExportError(f"the network's output is not (N, {4 + class_count}, anchors); is it a detector?")


def anchors_kept(floor: float) -> int:
    """How many anchors, best first, are looked at for a version that stores candidates over `floor`."""
    return USUAL_ANCHORS if floor >= LOWEST_USUAL_FLOOR else MOST_ANCHORS


HEADER: Final = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>'

# Cast comes first: TensorRT takes 8-bit inputs into no other layer.
PREPARATION: Final = f"""{HEADER}
preparation (uint8[batch, height, width, 3] {FRAMES}) => (float[batch, 3, height, width] prepared)
<float white = {{255.0}}>
{{
    levels = Cast <to = 1> ({FRAMES})
    planes = Transpose <perm = [0, 3, 1, 2]> (levels)
    prepared = Div (planes, white)
}}"""


def _suppression(class_count: int, floor: float, iou: float) -> str:
    """Ultralytics' `non_max_suppression(agnostic=False, multi_label=False)` for whole batches."""
    kept = anchors_kept(floor)
    return f"""{HEADER}
suppression (float[batch, channels, anchors] raw) => (float[batch, {MAX_CANDIDATES}, 6] {CANDIDATES})
<int64[2] channels_split = {{4, {class_count}}}, int64[2] halves = {{2, 2}}, int64[1] one = {{1}}, int64[1] two = {{2}},
 int64[4] pads = {{0, 0, 0, {kept}}}, int64[1] kept = {{{kept}}}, int64[1] most = {{{MAX_CANDIDATES}}},
 int64[3] box_shape = {{1, 1, 4}}, int64[3] row_shape = {{1, 1, 6}}, int64[2] frame_and_anchor = {{0, 2}},
 float zero = {{0.0}}, float divisor = {{2.0}}, float class_offset = {{{float(CLASS_OFFSET_PX)}}},
 float floor = {{{floor}}}, float iou = {{{iou}}}>
{{
    box_channels, score_channels = Split <axis = 1> (raw, channels_split)
    score = ReduceMax <axes = [1], keepdims = 0> (score_channels)
    class_id = ArgMax <axis = 1, keepdims = 0> (score_channels)

    padded_score = Pad (score, pads, zero)
    top_score, padded_anchor = TopK <axis = 1> (padded_score, kept)
    score_shape = Shape (score)
    anchor_count = Gather <axis = 0> (score_shape, one)
    last_anchor = Sub (anchor_count, one)
    top_anchor = Min (padded_anchor, last_anchor)

    top_class_id = GatherElements <axis = 1> (class_id, top_anchor)
    top_class = Cast <to = 1> (top_class_id)
    class_column = Unsqueeze (top_class, two)
    score_column = Unsqueeze (top_score, two)
    anchor_column = Unsqueeze (top_anchor, two)
    anchor_index = Expand (anchor_column, box_shape)
    boxes = Transpose <perm = [0, 2, 1]> (box_channels)
    top_box = GatherElements <axis = 1> (boxes, anchor_index)
    centre, size = Split <axis = 2> (top_box, halves)
    reach = Div (size, divisor)
    top_left = Sub (centre, reach)
    bottom_right = Add (centre, reach)
    corners = Concat <axis = 2> (top_left, bottom_right)

    offset = Mul (class_column, class_offset)
    moved_corners = Add (corners, offset)
    score_row = Unsqueeze (top_score, one)
    selected = NonMaxSuppression (moved_corners, score_row, most, iou, floor)
    selected_at = Gather <axis = 1> (selected, frame_and_anchor)
    selected_shape = Shape <end = 1> (selected)
    ones = ConstantOfShape <value = float[1] {{1.0}}> (selected_shape)
    top_shape = Shape (top_score)
    zeros = ConstantOfShape <value = float[1] {{0.0}}> (top_shape)
    is_kept = ScatterND (zeros, selected_at, ones)
    kept_score = Mul (top_score, is_kept)
    rows = Concat <axis = 2> (corners, score_column, class_column)

    row_score, row = TopK <axis = 1> (kept_score, most)
    row_column = Unsqueeze (row, two)
    row_index = Expand (row_column, row_shape)
    best_rows = GatherElements <axis = 1> (rows, row_index)
    is_row = Greater (row_score, floor)
    is_row_column = Unsqueeze (is_row, two)
    {CANDIDATES} = Where (is_row_column, best_rows, zero)
}}"""


def _selection(class_count: int, floor: float) -> str:
    """Ultralytics' `Detect.postprocess`: the best 300 anchors, then the best 300 (anchor, class) pairs of those.

    A frame of fewer anchors has no more rows than anchors.
    """
    return f"""{HEADER}
selection (float[batch, channels, anchors] raw) => (float[batch, {MAX_CANDIDATES}, 6] {CANDIDATES})
<int64[2] channels_split = {{4, {class_count}}}, int64[1] two = {{2}},
 int64[6] channel_pads = {{0, 0, 0, 0, {MAX_CANDIDATES}, 0}},
 int64[1] most = {{{MAX_CANDIDATES}}}, int64[3] channels_shape = {{1, 1, {4 + class_count}}},
 int64[2] flat = {{0, -1}}, int64[3] box_shape = {{1, 1, 4}},
 int64 classes = {{{class_count}}}, int64 first = {{0}}, int64 most_rows = {{{MAX_CANDIDATES}}}, int64 step = {{1}},
 float zero = {{0.0}}, float floor = {{{floor}}}>
{{
    anchor_rows = Transpose <perm = [0, 2, 1]> (raw)
    raw_shape = Shape (raw)
    anchor_count = Gather <axis = 0> (raw_shape, two)
    padded_rows = Pad (anchor_rows, channel_pads, zero)
    all_boxes, all_scores = Split <axis = 2> (padded_rows, channels_split)
    score = ReduceMax <axes = [2], keepdims = 0> (all_scores)
    top_score, top_anchor = TopK <axis = 1> (score, most)
    anchor_column = Unsqueeze (top_anchor, two)
    channel_index = Expand (anchor_column, channels_shape)
    top_rows = GatherElements <axis = 1> (padded_rows, channel_index)
    top_box, top_scores = Split <axis = 2> (top_rows, channels_split)

    pair_scores = Reshape (top_scores, flat)
    kept_score, pair = TopK <axis = 1> (pair_scores, most)
    place = Div (pair, classes)
    class_id = Mod (pair, classes)
    class = Cast <to = 1> (class_id)
    place_column = Unsqueeze (place, two)
    place_index = Expand (place_column, box_shape)
    corners = GatherElements <axis = 1> (top_box, place_index)
    score_column = Unsqueeze (kept_score, two)
    class_column = Unsqueeze (class, two)
    rows = Concat <axis = 2> (corners, score_column, class_column)
    is_over_floor = Greater (kept_score, floor)
    rank = Range (first, most_rows, step)
    is_in_reach = Less (rank, anchor_count)
    is_row = And (is_over_floor, is_in_reach)
    is_row_column = Unsqueeze (is_row, two)
    {CANDIDATES} = Where (is_row_column, rows, zero)
}}"""
