"""The configurations say what the contract says, in text that protobuf reads back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from export.triton_config import EMBEDDED, ONNX_RUNTIME, TARGETS, TENSORRT, Target, render_config, render_configs
from orchestrator.core.contract import CANDIDATES, FRAMES, ModelCard, parameter_name

CARD = ModelCard(
    class_names=("circle", "square"),
    stride=32,
    imgsz=640,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest="d" * 64,
    weights_sha256="w" * 64,
    certificate="passed",
)


def parsed(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
def test_tensors_are_those_of_the_contract(target: Target) -> None:
    config = parsed(render_config("shapes", {1: CARD}, target))
    (frames,), (candidates,) = config.input, config.output
    assert (config.name, config.max_batch_size) == ("shapes", target.max_batch)
    assert (frames.name, frames.data_type, list(frames.dims)) == (FRAMES, model_config_pb2.TYPE_UINT8, [-1, -1, 3])
    assert (candidates.name, candidates.data_type) == (CANDIDATES, model_config_pb2.TYPE_FP32)
    assert list(candidates.dims) == [300, 6]


def test_each_server_gets_its_backend_and_file() -> None:
    configs = {target.path: parsed(render_config("shapes", {1: CARD}, target)) for target in TARGETS}
    backends = {path: config.backend or config.platform for path, config in configs.items()}
    files = {path: config.default_model_filename for path, config in configs.items()}
    assert backends == {
        "config.pbtxt": "onnxruntime",
        "configs/embedded.pbtxt": "python",
        "configs/tensorrt.pbtxt": "tensorrt_plan",
    }
    assert files == {
        "config.pbtxt": "model.onnx",
        "configs/embedded.pbtxt": "model.py",
        "configs/tensorrt.pbtxt": "model.plan",
    }


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
def test_a_full_queue_refuses_and_no_batch_size_is_preferred(target: Target) -> None:
    batching = parsed(render_config("shapes", {1: CARD}, target)).dynamic_batching
    policy = batching.default_queue_policy
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    assert policy.max_queue_size > 0
    assert policy.default_timeout_microseconds > 0
    assert batching.max_queue_delay_microseconds <= 1000
    assert not batching.preferred_batch_size


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
def test_every_version_is_served_by_explicit_instances(target: Target) -> None:
    config = parsed(render_config("shapes", {1: CARD}, target))
    assert config.version_policy.HasField("all")
    assert [group.count for group in config.instance_group] == [1]


def test_threads_are_said_for_both_cpu_servers() -> None:
    onnx = parsed(render_config("shapes", {1: CARD}, ONNX_RUNTIME)).parameters
    embedded = parsed(render_config("shapes", {1: CARD}, EMBEDDED)).parameters
    assert {"intra_op_thread_count", "inter_op_thread_count"} < set(onnx)
    assert {"runs_side_by_side", "intra_op_threads", "inter_op_threads", "execution_provider"} < set(embedded)


def test_warm_up_has_the_usual_shape_alone_and_in_the_largest_batch() -> None:
    warmups = parsed(render_config("shapes", {1: CARD}, TENSORRT)).model_warmup
    assert [warmup.batch_size for warmup in warmups] == [1, TENSORRT.max_batch]
    assert [list(warmup.inputs[FRAMES].dims) for warmup in warmups] == [[384, 640, 3]] * 2


def test_warm_up_follows_the_newest_version() -> None:
    smaller = dataclasses.replace(CARD, imgsz=320)
    warmups = parsed(render_config("shapes", {1: CARD, 2: smaller}, EMBEDDED)).model_warmup
    assert list(warmups[0].inputs[FRAMES].dims) == [192, 320, 3]


def test_every_version_has_its_description() -> None:
    cards = {1: CARD, 3: dataclasses.replace(CARD, digest="e" * 64)}
    for text in render_configs("shapes", cards).values():
        parameters = parsed(text).parameters
        found = {version: ModelCard.from_json(parameters[parameter_name(version)].string_value) for version in cards}
        assert found == cards


@given(names=st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_any_class_name_survives_the_text_format(names: list[str]) -> None:
    card = dataclasses.replace(CARD, class_names=tuple(names))
    config = parsed(render_config("shapes", {1: card}, EMBEDDED))
    assert ModelCard.from_json(config.parameters[parameter_name(1)].string_value) == card
