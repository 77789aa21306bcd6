"""One Triton that batches may go to: its connection, its models, and how frames reach it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from orchestrator.core.types import FrameBatch, ServedModel
from orchestrator.errors import TritonBrokeError, TritonUnavailableError
from orchestrator.inference.catalogue import TritonCatalogue
from orchestrator.inference.connection import TritonConnection, triton_errors
from orchestrator.inference.door import Door
from orchestrator.inference.server_load import Load
from orchestrator.inference.slot_region import RegionRegistration
from orchestrator.inference.wire import build_request, candidates_from

# Of failures that may be the machine's own, a broken GPU's for example, and not the request's.
SERVERS_FAULT: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
# Which of them gRPC takes for the calls of a connection that is lost depends on the moment.
OF_LOST_CALLS: Final = SERVERS_FAULT | {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class Endpoint:
    """load and door: kept up by those who send batches. is_broken: whether it is known to be about to start again."""

    def __init__(
        self,
        connection: TritonConnection,
        catalogue: TritonCatalogue,
        registration: RegionRegistration,
        *,
        timeout_s: float,
        is_broken: Callable[[], bool] = lambda: False,
    ) -> None:
        self.connection = connection
        self.catalogue = catalogue
        self.registration = registration
        self.load = Load()
        self.door = Door()
        self._timeout_s = timeout_s
        self._is_broken = is_broken

    @property
    def url(self) -> str:
        return self.connection.url

    @property
    def is_connected(self) -> bool:
        return self.connection.is_connected

    def rank(self, now_s: float) -> tuple[bool, int]:
        """By which batches choose: the smallest first. Doubtful ones last, else by frames in flight."""
        return self.load.is_doubtful(now_s) or self.door.is_closed, self.load.frames

    async def infer(self, model: ServedModel, batch: FrameBatch) -> NDArray[np.float32]:
        """One request: candidates (N, 300, 6), read-only.

        Raises ModelNotFoundError, ModelNotReadyError, ModelChangedError, SharedMemoryRefusedError before frames are
        sent; TritonBrokeError if the server broke meanwhile; ContractError and other InferenceErrors.
        """
        if not self.is_connected:
            raise TritonUnavailableError(f"{model.version}: Triton at {self.url} is away")
        if self.load.failures and self._is_broken():
            raise TritonUnavailableError(f"{model.version}: Triton is broken and starts again")
        epoch = self.connection.epoch
        await self.catalogue.verify(model)
        region = await self.registration.name()
        with triton_errors(str(model.version)):
            try:
                answer = await self._request(model, batch, region)
            except grpc.aio.AioRpcError as exc:
                if await self._broke(exc, epoch):
                    text = f"{model.version}: Triton broke: {exc.details()}"
                    raise TritonBrokeError(text, life=(self.url, epoch)) from exc
                if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self.catalogue.doubt()
                raise
        if self.connection.epoch != epoch:
            # The answer may come from a server that was not verified.
            raise TritonUnavailableError(f"{model.version}: Triton reconnected during the request")
        return candidates_from(answer, frames=len(batch.stamps), model=model)

    async def _request(self, model: ServedModel, batch: FrameBatch, region: str | None) -> Any:
        try:
            return await self._send(model, batch, region)
        except grpc.aio.AioRpcError as exc:
            # 2.51 answers NOT_FOUND for a region it does not know and for a model: with the region registered
            # again, a second NOT_FOUND means the model.
            if region is None or exc.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        self.registration.forget()
        return await self._send(model, batch, await self.registration.name())

    async def _send(self, model: ServedModel, batch: FrameBatch, region: str | None) -> Any:
        offset = 0 if region is None else self.registration.offset(batch.slot)
        return await self.connection.infer(
            lambda: build_request(model.version, batch, region=region, offset=offset), timeout_s=self._timeout_s
        )

    async def _broke(self, exc: grpc.aio.AioRpcError, epoch: int) -> bool:
        """Whether the server broke while it had the request, rather than refused it."""
        if exc.code() is grpc.StatusCode.INTERNAL and self._is_broken():
            return True
        return exc.code() in OF_LOST_CALLS and await self.connection.was_lost(epoch)


def is_servers_fault(exc: BaseException) -> bool:
    """Whether another server might well answer what this one failed for good."""
    cause = exc.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and cause.code() in SERVERS_FAULT
