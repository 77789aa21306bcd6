"""Requests to Triton, its answers and its errors, as messages."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from orchestrator.errors import ContractError, InferenceError, TritonTimeoutError, TritonUnavailableError
from orchestrator.inference.connection import triton_errors
from orchestrator.inference.slot_region import is_refusal
from orchestrator.inference.wire import build_request, candidates_from, raw_input
from orchestrator.testing.fake_model import served_model
from tests.support.triton import batch_of

SERVED = served_model("cars", 2)
CARS = SERVED.version
BATCH = batch_of(0, np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3))


def answer_of(candidates: NDArray[np.float32]) -> Any:
    message = service_pb2.ModelInferResponse(raw_output_contents=[candidates.tobytes()])
    message.outputs.add(name="candidates", datatype="FP32", shape=candidates.shape)
    return message


def answer(*, name: str = "candidates", datatype: str = "FP32", shape: tuple[int, ...] = (2, 300, 6)) -> Any:
    message = answer_of(np.zeros(shape, np.float32))
    message.outputs[0].name, message.outputs[0].datatype = name, datatype
    return message


def rows(*written: tuple[float, ...]) -> NDArray[np.float32]:
    """Candidates of two frames, of which the second one has these rows."""
    candidates = np.zeros((2, 300, 6), np.float32)
    candidates[1, : len(written)] = written
    return candidates


def parsed(request: bytes) -> Any:
    return service_pb2.ModelInferRequest.FromString(request)


def rpc_error(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


def test_a_request_carries_its_frames_or_their_place() -> None:
    carried = parsed(build_request(CARS, BATCH, region=None, offset=0))
    assert (carried.model_name, carried.model_version) == ("cars", "2")
    assert list(carried.inputs[0].shape) == [2, 4, 6, 3]
    assert carried.raw_input_contents[0] == BATCH.pixels.tobytes()
    placed = parsed(build_request(CARS, BATCH, region="slots", offset=4096))
    assert not placed.raw_input_contents
    parameters = placed.inputs[0].parameters
    assert parameters["shared_memory_region"].string_param == "slots"
    assert parameters["shared_memory_offset"].int64_param == 4096
    assert parameters["shared_memory_byte_size"].int64_param == 2 * 4 * 6 * 3


@pytest.mark.parametrize("frames", [1, 14, 15, 1_900])
def test_frames_are_written_as_protobuf_writes_them(frames: int) -> None:
    """Lengths of one, two and three bytes; 14 frames are 126 bytes, 15 are 135."""
    pixels = np.arange(frames * 9, dtype=np.uint32).astype(np.uint8).reshape(frames, 1, 3, 3)
    message = service_pb2.ModelInferRequest(raw_input_contents=[pixels.tobytes()])
    assert b"".join(raw_input(pixels)) == message.SerializeToString()


def test_candidates_come_in_the_shape_of_the_contract() -> None:
    sent = rows((0, 0, 8, 6, 0.75, 1), (1, 2, 3, 4, 0.75, 0), (-3, 2, 900, 4, 0.25, 2))
    candidates = candidates_from(answer_of(sent), frames=2, model=SERVED)
    assert candidates.tolist() == sent.tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        answer(shape=(1, 300, 6)),
        answer(shape=(2, 84, 8400)),
        answer(datatype="FP16"),
        answer(name="output0"),
        service_pb2.ModelInferResponse(),
    ],
)
def test_any_other_answer_breaks_the_contract(wrong: Any) -> None:
    with pytest.raises(ContractError, match="cars:2 answers"):
        candidates_from(wrong, frames=2, model=SERVED)


def test_an_empty_output_breaks_the_contract() -> None:
    """As the Python backend of the embedded Triton answers with NumPy 2."""
    empty = answer()
    empty.raw_output_contents[0] = b""
    with pytest.raises(ContractError, match="cars:2 answers 0 bytes as"):
        candidates_from(empty, frames=2, model=SERVED)


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        (rows((0, 0, 8, 6, np.nan, 1)), "not finite"),
        (rows((0, 0, np.inf, 6, 0.5, 1)), "not finite"),
        (rows((0, 0, 8, 6, 0.5, 1), (0, np.nan, 0, 0, 0, 0)), "not finite"),
        (rows((0, 0, 8, 6, 1.5, 1)), "not between 0 and 1"),
        (rows((0, 0, 8, 6, -0.5, 1)), "not between 0 and 1"),
        (rows((0, 0, 8, 6, 0.5, 1), (0, 0, 8, 6, 0.75, 1)), "not sorted"),
        (rows((0, 0, 0, 0, 0, 0), (0, 0, 8, 6, 0.75, 1)), "not sorted"),
        (rows((0, 0, 8, 6, 0.5, 3)), "none of its 3 classes"),
        (rows((0, 0, 8, 6, 0.5, -1)), "none of its 3 classes"),
        (rows((0, 0, 8, 6, 0.5, 1.5)), "none of its 3 classes"),
    ],
)
def test_numbers_that_are_no_boxes_break_the_contract(written: NDArray[np.float32], complaint: str) -> None:
    with pytest.raises(ContractError, match=f"cars:2 breaks the model contract: .*{complaint}"):
        candidates_from(answer_of(written), frames=2, model=SERVED)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, TritonUnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TritonUnavailableError),
        (grpc.StatusCode.ABORTED, TritonUnavailableError),
        (grpc.StatusCode.CANCELLED, TritonUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TritonTimeoutError),
        (grpc.StatusCode.INVALID_ARGUMENT, InferenceError),
        (grpc.StatusCode.INTERNAL, InferenceError),
    ],
)
def test_the_status_decides_whether_to_ask_again(status: grpc.StatusCode, error: type[InferenceError]) -> None:
    with pytest.raises(InferenceError, match="cars: why") as caught, triton_errors("cars"):
        raise rpc_error(status, "why")
    assert type(caught.value) is error
    assert caught.value.retryable is (error is not InferenceError)


def test_a_server_without_room_in_shared_memory_is_asked_again() -> None:
    details = (
        "Failed to increase the shared memory pool size for key 'x' to 2097152 bytes. Error: No space left on device"
    )
    with pytest.raises(TritonUnavailableError, match="No space left"), triton_errors("cars"):
        raise rpc_error(grpc.StatusCode.INTERNAL, details)


@pytest.mark.parametrize(
    ("status", "details", "refused"),
    [
        (grpc.StatusCode.INTERNAL, "Unable to open shared memory region: '/x'", True),
        (grpc.StatusCode.UNIMPLEMENTED, "", True),
        (grpc.StatusCode.UNAVAILABLE, "Client shared memory is disabled. Start the server with ...", True),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", False),
    ],
)
def test_only_an_answer_refuses_shared_memory(status: grpc.StatusCode, details: str, refused: bool) -> None:
    assert is_refusal(rpc_error(status, details)) is refused
