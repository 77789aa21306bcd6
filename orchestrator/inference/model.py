"""Inference of a batch: one request to Triton, asked again while Triton is away or busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from orchestrator.core.contract import CANDIDATE_FIELDS, CANDIDATES, FRAMES, MAX_CANDIDATES
from orchestrator.core.types import FrameBatch, ModelVersion, ServedModel
from orchestrator.errors import ContractError, TrireelError, TritonUnavailableError
from orchestrator.inference.catalogue import TritonCatalogue
from orchestrator.inference.connection import TritonConnection, triton_errors
from orchestrator.inference.retrying import Retrying
from orchestrator.inference.slot_region import RegionRegistration
from orchestrator.telemetry import Metrics

FRAMES_TYPE: Final = "UINT8"
CANDIDATES_TYPE: Final = "FP32"
LENGTH_DELIMITED: Final = 2
RAW_INPUT_TAG: Final = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | LENGTH_DELIMITED


class TritonModel:
    """The port `Model`. is_server_broken: whether the server is known to be about to start again."""

    def __init__(
        self,
        connection: TritonConnection,
        catalogue: TritonCatalogue,
        registration: RegionRegistration,
        *,
        timeout_s: float,
        metrics: Metrics,
        retrying: Retrying,
        is_server_broken: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._registration = registration
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._retrying = retrying
        self._is_server_broken = is_server_broken

    async def infer(self, model: ServedModel, batch: FrameBatch) -> NDArray[np.float32]:
        """Candidates (N, 300, 6) of a batch; read-only. The slot may be given back when this ends, however it ends.

        Raises ContractError, ModelChangedError, SharedMemoryRefusedError and other InferenceErrors at once; after its
        retries TritonUnavailableError, TritonTimeoutError or ModelNotReadyError.
        """
        name = model.version.name
        with self._measured(name, len(batch.stamps)):
            return await self._retrying.run(lambda: self._attempt(model, batch), on_retry=self._count_retry)

    async def _attempt(self, model: ServedModel, batch: FrameBatch) -> NDArray[np.float32]:
        if not self._connection.is_connected:
            raise TritonUnavailableError(f"{model.version}: Triton at {self._connection.url} is away")
        epoch = self._connection.epoch
        await self._catalogue.verify(model)
        with triton_errors(str(model.version)):
            try:
                answer = await self._request(model, batch)
            except grpc.aio.AioRpcError as exc:
                if exc.code() is grpc.StatusCode.INTERNAL and self._is_server_broken():
                    raise TritonUnavailableError(f"{model.version}: Triton broke and starts again") from exc
                raise
        if self._connection.epoch != epoch:
            # The answer may come from a server that was not verified.
            raise TritonUnavailableError(f"{model.version}: Triton reconnected during the request")
        return candidates_from(answer, frames=len(batch.stamps), model=model.version)

    async def _request(self, model: ServedModel, batch: FrameBatch) -> Any:
        region = await self._registration.name()
        try:
            return await self._send(model, batch, region)
        except grpc.aio.AioRpcError as exc:
            # 2.51 answers NOT_FOUND for a region it does not know and for a model: with the region registered
            # again, a second NOT_FOUND means the model.
            if region is None or exc.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        self._registration.forget()
        return await self._send(model, batch, await self._registration.name())

    async def _send(self, model: ServedModel, batch: FrameBatch, region: str | None) -> Any:
        def build() -> bytes:
            if region is None:
                return build_request(model.version, batch, region=None, offset=0)
            return build_request(model.version, batch, region=region, offset=self._registration.offset(batch.slot))

        return await self._connection.infer(build, timeout_s=self._timeout_s)

    def _count_retry(self, exc: TrireelError) -> None:
        self._metrics.inference_retries.labels(exc.code).inc()

    @contextmanager
    def _measured(self, name: str, frames: int) -> Iterator[None]:
        """Count the frames as in flight inside; as inferred, with the time it took, when it ends well."""
        began = time.monotonic()
        self._metrics.frames_in_flight.inc(frames)
        try:
            yield
        finally:
            self._metrics.frames_in_flight.dec(frames)
        self._metrics.inference_seconds.labels(name).observe(time.monotonic() - began)
        self._metrics.batch_frames.labels(name).observe(frames)
        self._metrics.frames_inferred.labels(name).inc(frames)


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


def candidates_from(answer: Any, *, frames: int, model: ModelVersion) -> NDArray[np.float32]:
    """The candidates (N, 300, 6) in a ModelInferResponse. Raises ContractError if they are anything else."""
    expected = (CANDIDATES, CANDIDATES_TYPE, [frames, MAX_CANDIDATES, CANDIDATE_FIELDS])
    found = [(output.name, output.datatype, list(output.shape)) for output in answer.outputs]
    if found != [expected] or len(answer.raw_output_contents) != 1:
        raise ContractError(f"{model} answers {found} instead of {expected}")
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(expected[2])
