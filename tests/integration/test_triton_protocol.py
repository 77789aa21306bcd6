"""What a Triton says to right and wrong calls: the fake one must say what the real one says."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from orchestrator.core.contract import parameter_name
from orchestrator.core.types import ModelVersion
from orchestrator.inference.wire import build_request
from orchestrator.video.slots import SlotPool
from tests.support.either_triton import EitherTriton, stranger_at
from tests.support.triton import FAILING, MEAN_COLOUR, batch_of, mean_colour_card, noise

VERSION = ModelVersion(MEAN_COLOUR, 1, "a" * 64)
FRAME_BYTES = noise(1).nbytes


def request_of(frames: NDArray[np.uint8]) -> Any:
    return service_pb2.ModelInferRequest.FromString(build_request(VERSION, batch_of(0, frames), region=None, offset=0))


def placed_request(region: str, *, byte_size: int = FRAME_BYTES, offset: int = 0) -> Any:
    request = request_of(noise(1))
    del request.raw_input_contents[:]
    parameters = request.inputs[0].parameters
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset:
        parameters["shared_memory_offset"].int64_param = offset
    return request


async def status_of(server: EitherTriton, method: str, *requests: Any) -> grpc.StatusCode:
    """Of the last request; the others must be answered well. Leaves no region registered."""
    async with stranger_at(server.url) as connection:
        try:
            for request in requests[:-1]:
                await connection.call(method, partial(deepcopy, request), timeout_s=10)
            await connection.call(method, partial(deepcopy, requests[-1]), timeout_s=10)
        except grpc.aio.AioRpcError as exc:
            status: grpc.StatusCode = exc.code()
            return status
        else:
            return grpc.StatusCode.OK
        finally:
            await connection.call(
                "SystemSharedMemoryUnregister", service_pb2.SystemSharedMemoryUnregisterRequest, timeout_s=5
            )


def edited(frames: int, edit: Callable[[Any], object]) -> Any:
    request = request_of(noise(frames))
    edit(request)
    return request


def failing() -> NDArray[np.uint8]:
    frames = noise(1)
    frames[0, 0, 0] = FAILING
    return frames


WRONG_REQUESTS = [
    (request_of(noise(4)), grpc.StatusCode.OK),
    (edited(1, lambda request: setattr(request, "model_version", "")), grpc.StatusCode.OK),
    (edited(1, lambda request: setattr(request, "model_name", "trucks")), grpc.StatusCode.NOT_FOUND),
    (edited(1, lambda request: setattr(request, "model_version", "7")), grpc.StatusCode.NOT_FOUND),
    (edited(1, lambda request: setattr(request.inputs[0], "name", "images")), grpc.StatusCode.INVALID_ARGUMENT),
    (edited(1, lambda request: setattr(request.inputs[0], "datatype", "FP32")), grpc.StatusCode.INVALID_ARGUMENT),
    (edited(1, lambda request: setattr(request.outputs[0], "name", "boxes")), grpc.StatusCode.INVALID_ARGUMENT),
    (edited(2, lambda request: request.inputs[0].shape.__setitem__(0, 1)), grpc.StatusCode.INVALID_ARGUMENT),
    (request_of(noise(5)), grpc.StatusCode.INVALID_ARGUMENT),
    (placed_request("nowhere"), grpc.StatusCode.NOT_FOUND),
    (request_of(failing()), grpc.StatusCode.INTERNAL),
]


@pytest.mark.parametrize(("request_", "status"), WRONG_REQUESTS)
async def test_requests_for_inference(either_triton: EitherTriton, request_: Any, status: grpc.StatusCode) -> None:
    assert await status_of(either_triton, "ModelInfer", request_) is status


def registration(name: str, key: str, byte_size: int) -> Any:
    return service_pb2.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=0, byte_size=byte_size)


async def test_registering_shared_memory(either_triton: EitherTriton, slots: SlotPool) -> None:
    assert slots.key is not None
    method, size = "SystemSharedMemoryRegister", slots.byte_size
    first, second = registration("first", slots.key, size), registration("second", slots.key, size)
    assert await status_of(either_triton, method, first) is grpc.StatusCode.OK
    assert await status_of(either_triton, method, first, first) is grpc.StatusCode.ALREADY_EXISTS
    assert await status_of(either_triton, method, first, second) is grpc.StatusCode.INTERNAL
    absent = registration("first", "/trireel_is_not_here", size)
    assert await status_of(either_triton, method, absent) is grpc.StatusCode.INTERNAL
    too_large = registration("first", slots.key, 2 * size)
    assert await status_of(either_triton, method, too_large) is grpc.StatusCode.INVALID_ARGUMENT


async def test_frames_outside_of_their_region_are_refused(either_triton: EitherTriton, slots: SlotPool) -> None:
    assert slots.key is not None
    register = registration("first", slots.key, slots.byte_size)
    last = slots.byte_size - FRAME_BYTES
    async with stranger_at(either_triton.url) as connection:
        await connection.call("SystemSharedMemoryRegister", lambda: register, timeout_s=5)
    inside, outside = placed_request("first", offset=last), placed_request("first", offset=last + 1)
    assert await status_of(either_triton, "ModelInfer", inside, outside) is grpc.StatusCode.INVALID_ARGUMENT


async def test_models_and_their_configurations(either_triton: EitherTriton) -> None:
    async with stranger_at(either_triton.url) as connection:
        index = await connection.call("RepositoryIndex", service_pb2.RepositoryIndexRequest, timeout_s=5)
        ask = service_pb2.ModelConfigRequest(name=MEAN_COLOUR)
        config = (await connection.call("ModelConfig", lambda: ask, timeout_s=5)).config
    assert [(model.name, model.version, model.state) for model in index.models] == [(MEAN_COLOUR, "1", "READY")]
    assert (config.max_batch_size, [group.count for group in config.instance_group]) == (4, [1])
    assert config.parameters[parameter_name(1)].string_value == mean_colour_card().to_json()


async def test_a_model_that_is_not_there(either_triton: EitherTriton) -> None:
    config = service_pb2.ModelConfigRequest(name="trucks")
    assert await status_of(either_triton, "ModelConfig", config) is grpc.StatusCode.NOT_FOUND
    load = service_pb2.RepositoryModelLoadRequest(model_name="trucks")
    assert await status_of(either_triton, "RepositoryModelLoad", load) is grpc.StatusCode.INTERNAL
    load = service_pb2.RepositoryModelLoadRequest(model_name=MEAN_COLOUR)
    assert await status_of(either_triton, "RepositoryModelLoad", load) is grpc.StatusCode.OK
