"""What a Triton answers to the calls that the orchestrator makes, and to a few by which tests look into a server."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer

from orchestrator.core.contract import CANDIDATE_FIELDS, CANDIDATES, FRAMES, MAX_CANDIDATES, ModelCard, parameter_name
from tests.support.triton import DYING, FAILING, SLOW

SHARED_MEMORY: Final = Path("/dev/shm")
SLOW_S: Final = 1.0
STATUS: Final = grpc.StatusCode

Call = Callable[[Any, Any, grpc.aio.ServicerContext], Awaitable[Any]]


@dataclass(slots=True)
class Region:
    """memory: of the whole object, of which the region begins at `offset`."""

    memory: mmap.mmap
    key: str
    offset: int
    byte_size: int


class KserveState(Protocol):
    """What `FakeKserve` is for the calls."""

    published: dict[str, dict[int, ModelCard]]
    served: dict[str, dict[int, ModelCard]]
    regions: dict[str, Region]
    allows_shared_memory: bool
    refusal_status: grpc.StatusCode
    instances: int
    max_batch: int

    async def answer(self, method: str, context: Any, make: Callable[[], Awaitable[Any]]) -> Any: ...

    async def die(self) -> None: ...

    def forget(self, name: str) -> None: ...


def scripted(call: Call) -> Call:
    """By way of `FakeKserve.answer`, which may have been told to let it go wrong."""

    @wraps(call)
    async def by_script(self: KserveCalls, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return await self.server.answer(call.__name__, context, lambda: call(self, request, context))

    return by_script


class KserveCalls(GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient has no types
    """Statuses and texts are those of 2.51."""

    def __init__(self, server: KserveState) -> None:
        self.server = server

    @scripted
    async def ServerReady(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    @scripted
    async def RepositoryIndex(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        index = service_pb2.RepositoryIndexResponse()
        for name, cards in self.server.served.items():
            for version in cards:
                index.models.add(name=name, version=str(version), state="READY")
        return index

    @scripted
    async def ModelConfig(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        cards = await self._require_model(request.name, request.version, context)
        config = model_config_pb2.ModelConfig(name=request.name, max_batch_size=self.server.max_batch)
        config.instance_group.add(count=self.server.instances)
        for version, card in cards.items():
            config.parameters[parameter_name(version)].string_value = card.to_json()
        return service_pb2.ModelConfigResponse(config=config)

    @scripted
    async def RepositoryModelLoad(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        name = request.model_name
        if name not in self.server.published:
            await context.abort(STATUS.INTERNAL, f"failed to load '{name}', failed to poll from model repository")
        self.server.served[name] = dict(self.server.published[name])
        return service_pb2.RepositoryModelLoadResponse()

    @scripted
    async def SystemSharedMemoryRegister(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        if not self.server.allows_shared_memory:
            text = "Client shared memory is disabled. Start the server with --allow-client-shm=true to enable it."
            await context.abort(self.server.refusal_status, text)
        if request.name in self.server.regions:
            await context.abort(STATUS.ALREADY_EXISTS, f"shared memory region '{request.name}' already in manager")
        if any(region.key == request.key for region in self.server.regions.values()):
            await context.abort(STATUS.INTERNAL, f"Invalid shared memory region: '{request.key}'")
        path = SHARED_MEMORY / request.key.removeprefix("/")
        if not path.exists():
            await context.abort(STATUS.INTERNAL, f"Unable to open shared memory region: '{request.key}'")
        if path.stat().st_size < request.offset + request.byte_size:
            await context.abort(STATUS.INVALID_ARGUMENT, f"failed to register shared memory region '{request.name}'")
        with path.open("rb") as stream:
            memory = mmap.mmap(stream.fileno(), request.offset + request.byte_size, prot=mmap.PROT_READ)
        self.server.regions[request.name] = Region(memory, request.key, request.offset, request.byte_size)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    @scripted
    async def SystemSharedMemoryUnregister(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        for name in [request.name] if request.name else list(self.server.regions):
            self.server.forget(name)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    @scripted
    async def SystemSharedMemoryStatus(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        status = service_pb2.SystemSharedMemoryStatusResponse()
        for name, region in self.server.regions.items():
            shown = status.regions[name]
            shown.name, shown.key, shown.byte_size = name, region.key, region.byte_size
        return status

    @scripted
    async def ModelInfer(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._require_model(request.model_name, request.model_version, context)
        frames = await self._require_frames(request, context)
        asked = tuple(int(value) for value in frames[0, 0, 0])
        if asked == FAILING:
            await context.abort(STATUS.INTERNAL, "a frame asked to fail")
        if asked == DYING:
            await self.server.die()
        if asked == SLOW:
            await asyncio.sleep(SLOW_S)
        candidates = mean_colours(frames)
        answer = service_pb2.ModelInferResponse(
            model_name=request.model_name,
            model_version=request.model_version,
            raw_output_contents=[candidates.tobytes()],
        )
        answer.outputs.add(name=CANDIDATES, datatype="FP32", shape=candidates.shape)
        return answer

    async def _require_model(self, name: str, version: str, context: grpc.aio.ServicerContext) -> dict[int, ModelCard]:
        cards = self.server.served.get(name)
        if cards is None:
            await context.abort(STATUS.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        if version and int(version) not in cards:
            text = f"Request for unknown model: '{name}' version {version} is not found"
            await context.abort(STATUS.NOT_FOUND, text)
        return cards

    async def _require_frames(self, request: Any, context: grpc.aio.ServicerContext) -> NDArray[np.uint8]:
        """The input's frames, wherever they lie; refused as Triton does."""
        name, frames = request.model_name, request.inputs[0]
        shape = tuple(frames.shape)
        complaint = None
        if frames.name != FRAMES:
            complaint = f"unexpected inference input '{frames.name}' for model '{name}'"
        elif [output.name for output in request.outputs] != [CANDIDATES]:
            complaint = f"unexpected inference output '{request.outputs[0].name}' for model '{name}'"
        elif frames.datatype != "UINT8":
            complaint = (
                f"inference input '{FRAMES}' data-type is '{frames.datatype}', but model '{name}' expects 'UINT8'"
            )
        elif shape[0] > self.server.max_batch:
            complaint = f"inference request batch-size must be <= {self.server.max_batch} for '{name}'"
        if complaint is not None:
            await context.abort(STATUS.INVALID_ARGUMENT, complaint)
        content = await self._require_content(request, context)
        if len(content) != np.prod(shape):
            text = f"input byte size mismatch for input '{FRAMES}' for model '{name}'. Expected {np.prod(shape)}"
            await context.abort(STATUS.INVALID_ARGUMENT, f"{text}, got {len(content)}")
        return np.frombuffer(content, np.uint8).reshape(shape)

    async def _require_content(self, request: Any, context: grpc.aio.ServicerContext) -> bytes:
        parameters = request.inputs[0].parameters
        if "shared_memory_region" not in parameters:
            return bytes(request.raw_input_contents[0])
        name = parameters["shared_memory_region"].string_param
        region = self.server.regions.get(name)
        if region is None:
            await context.abort(STATUS.NOT_FOUND, f"Unable to find shared memory region: '{name}'")
        begin = parameters["shared_memory_offset"].int64_param
        end = begin + parameters["shared_memory_byte_size"].int64_param
        if end > region.byte_size:
            text = f"Invalid offset + byte size for shared memory region: '{name}'"
            await context.abort(STATUS.INVALID_ARGUMENT, text)
        return region.memory[region.offset + begin : region.offset + end]


def mean_colours(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As the model of `tests/support/mean_colour`: frames (N, H, W, 3) to candidates (N, 300, 6)."""
    count, height, width, _ = frames.shape
    means = frames.mean(axis=(1, 2))
    candidates = np.zeros((count, MAX_CANDIDATES, CANDIDATE_FIELDS), np.float32)
    candidates[:, 0, 2:4] = width, height
    candidates[:, 0, 4] = means[:, 0] / 255
    candidates[:, 0, 5] = means[:, 1].round()
    return candidates
