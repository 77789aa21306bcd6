"""Writes Triton's model configurations: pure text from the descriptions of the published versions.

One model has three configurations, so that one published version serves every server: ONNX Runtime's backend (the
default), the Python backend of the embedded Triton, and TensorRT. Triton's `--model-config-name` chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.core.contract import (
    CANDIDATE_FIELDS,
    CANDIDATES,
    FRAME_CHANNELS,
    FRAMES,
    MAX_CANDIDATES,
    ModelCard,
    parameter_name,
)
from orchestrator.core.letterbox import fit_letterbox

GRAPH_FILE: Final = "model.onnx"
PLAN_FILE: Final = "model.plan"
EMBEDDED_FILE: Final = "model.py"

# A frame's worth of work is milliseconds on a GPU: half a millisecond lets a batch fill without being felt.
QUEUE_DELAY_US: Final = 500
# A full queue answers "unavailable" at once, which the orchestrator retries; waiting longer would hide an overload.
MAX_QUEUED_REQUESTS: Final = 128
QUEUE_TIMEOUT_US: Final = 60_000_000
# Videos are mostly 16:9, so this is the shape that the first request will have.
USUAL_SOURCE_W_PX: Final = 1920
USUAL_SOURCE_H_PX: Final = 1080


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One kind of server. head: what names the backend. parameters: of the backend, as text."""

    path: str
    head: str
    model_file: str
    max_batch: int
    instance_kind: str
    parameters: Mapping[str, str]


ONNX_RUNTIME: Final = Target(
    path="config.pbtxt",
    head='backend: "onnxruntime"',
    model_file=GRAPH_FILE,
    max_batch=32,
    instance_kind="KIND_AUTO",
    # 0 threads: as many as there are cores.
    parameters={"intra_op_thread_count": "0", "inter_op_thread_count": "1"},
)
EMBEDDED: Final = Target(
    path="configs/embedded.pbtxt",
    head='backend: "python"',
    model_file=EMBEDDED_FILE,
    max_batch=8,
    # The Python stub is a process on the CPU; `execution_provider` decides where its session runs.
    instance_kind="KIND_CPU",
    # inter_op_threads: asked for by the model.py of versions that were published before runs stood side by side.
    parameters={
        "runs_side_by_side": "0",
        "intra_op_threads": "0",
        "inter_op_threads": "1",
        "execution_provider": "auto",
    },
)
TENSORRT: Final = Target(
    path="configs/tensorrt.pbtxt",
    head='platform: "tensorrt_plan"',
    model_file=PLAN_FILE,
    max_batch=32,
    instance_kind="KIND_GPU",
    parameters={},
)
TARGETS: Final = (ONNX_RUNTIME, EMBEDDED, TENSORRT)


def render_configs(name: str, cards: Mapping[int, ModelCard]) -> dict[str, str]:
    """All configurations of a model, by their path inside the model's folder. cards: by version, at least one."""
    return {target.path: render_config(name, cards, target) for target in TARGETS}


def render_config(name: str, cards: Mapping[int, ModelCard], target: Target) -> str:
    """One configuration in protobuf's text format. Warm-up has the newest version's usual shape."""
    newest = cards[max(cards)]
    parameters = dict(target.parameters)
    parameters |= {parameter_name(version): cards[version].to_json() for version in sorted(cards)}
    return f"""\
name: {_quoted(name)}
{target.head}
default_model_filename: {_quoted(target.model_file)}
max_batch_size: {target.max_batch}
input [ {{ name: {_quoted(FRAMES)} data_type: TYPE_UINT8 dims: [ -1, -1, {FRAME_CHANNELS} ] }} ]
output [ {{ name: {_quoted(CANDIDATES)} data_type: TYPE_FP32 dims: [ {MAX_CANDIDATES}, {CANDIDATE_FIELDS} ] }} ]
instance_group [ {{ kind: {target.instance_kind} count: 1 }} ]
version_policy {{ all {{}} }}
dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {QUEUE_TIMEOUT_US}
    max_queue_size: {MAX_QUEUED_REQUESTS}
  }}
}}
{_warmup(newest, 1)}
{_warmup(newest, target.max_batch)}
{_parameters(parameters)}
"""


def _warmup(card: ModelCard, batch: int) -> str:
    box = fit_letterbox(USUAL_SOURCE_W_PX, USUAL_SOURCE_H_PX, imgsz=card.imgsz, stride=card.stride)
    dims = f"[ {box.model_h_px}, {box.model_w_px}, {FRAME_CHANNELS} ]"
    return f"""\
model_warmup [ {{
  name: "batch of {batch}"
  batch_size: {batch}
  inputs {{ key: {_quoted(FRAMES)} value {{ data_type: TYPE_UINT8 dims: {dims} random_data: true }} }}
}} ]"""


def _parameters(values: Mapping[str, str]) -> str:
    return "\n".join(
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
        for key, value in values.items()
    )


def _quoted(text: str) -> str:
    r"""A string literal of protobuf's text format; other bytes than printable ASCII are written as \ooo."""
    literal = "".join(
        f"\\{chr(byte)}" if byte in b'"\\' else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{literal}"'
