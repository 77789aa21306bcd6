"""A batch on the wire: Triton's request made of frames, and the candidates in its answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from orchestrator.core.candidates import require_contract
from orchestrator.core.contract import CANDIDATE_FIELDS, CANDIDATES, FRAMES, MAX_CANDIDATES
from orchestrator.core.types import FrameBatch, ModelVersion, ServedModel
from orchestrator.errors import ContractError

FRAMES_TYPE: Final = "UINT8"
CANDIDATES_TYPE: Final = "FP32"
CANDIDATE_BYTES: Final = 4
LENGTH_DELIMITED: Final = 2
RAW_INPUT_TAG: Final = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | LENGTH_DELIMITED


def build_request(version: ModelVersion, batch: FrameBatch, *, region: str | None, offset: int) -> bytes:
    """A ModelInferRequest on the wire, whose frames lie at `offset` of a registered region, or in it without one."""
    request = service_pb2.ModelInferRequest(model_name=version.name, model_version=str(version.version))
    frames = request.inputs.add(name=FRAMES, datatype=FRAMES_TYPE, shape=batch.pixels.shape)
    request.outputs.add(name=CANDIDATES)
    if region is None:
        return b"".join((request.SerializeToString(), *raw_input(batch.pixels)))
    frames.parameters["shared_memory_region"].string_param = region
    frames.parameters["shared_memory_byte_size"].int64_param = batch.pixels.nbytes
    frames.parameters["shared_memory_offset"].int64_param = offset
    serialized: bytes = request.SerializeToString()
    return serialized


def raw_input(pixels: NDArray[np.uint8]) -> tuple[bytes, memoryview]:
    """A field of `raw_input_contents` as protobuf writes it, to be appended to a message: its head, and the pixels.

    The message itself would copy them twice more: into the message, and from there into what is sent.
    """
    content = pixels.reshape(-1).data
    return bytes((RAW_INPUT_TAG, *_varint(content.nbytes))), content


def _varint(value: int) -> Iterator[int]:
    """Seven bits a byte, the lowest first; the top bit says that more follow (protobuf's encoding of integers)."""
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def candidates_from(answer: Any, *, frames: int, model: ServedModel) -> NDArray[np.float32]:
    """The candidates (N, 300, 6) in a ModelInferResponse. Raises ContractError if they are anything else."""
    shape = (frames, MAX_CANDIDATES, CANDIDATE_FIELDS)
    expected = (CANDIDATES, CANDIDATES_TYPE, list(shape))
    found = [(output.name, output.datatype, list(output.shape)) for output in answer.outputs]
    contents = answer.raw_output_contents
    if found != [expected] or len(contents) != 1:
        raise ContractError(f"{model.version} answers {found} instead of {expected}")
    if len(contents[0]) != math.prod(shape) * CANDIDATE_BYTES:
        raise ContractError(f"{model.version} answers {len(contents[0])} bytes as {expected}")
    candidates = np.frombuffer(contents[0], np.float32).reshape(shape)
    try:
        require_contract(candidates, class_count=len(model.card.class_names))
    except ContractError as exc:
        raise ContractError(f"{model.version} breaks the model contract: {exc}; publish it again") from exc
    return candidates
