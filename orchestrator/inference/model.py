"""Inference of a batch: one request to Triton, asked again while Triton is away or busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from orchestrator.core.types import FrameBatch, ServedModel
from orchestrator.errors import TrireelError, TritonUnavailableError
from orchestrator.inference.catalogue import TritonCatalogue
from orchestrator.inference.connection import TritonConnection, triton_errors
from orchestrator.inference.retrying import Retrying
from orchestrator.inference.slot_region import RegionRegistration
from orchestrator.inference.wire import build_request, candidates_from
from orchestrator.telemetry import Metrics


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
        return candidates_from(answer, frames=len(batch.stamps), model=model)

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
