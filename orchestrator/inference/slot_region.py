"""How frames reach Triton: in place, from the slots' shared memory, or as bytes in the gRPC message."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

import grpc
import structlog
from tritonclient.grpc import service_pb2

from orchestrator.errors import SharedMemoryRefusedError
from orchestrator.inference.connection import ERROR_BY_STATUS, NO_ANSWER, TritonConnection, triton_errors
from orchestrator.settings import Transport

log = structlog.get_logger(__name__)

REGISTER_TIMEOUT_S: Final = 10.0
UNREGISTER_TIMEOUT_S: Final = 1.0
# Triton keeps a region that a request reads, also one that was given up; most end within a second.
UNREGISTER_BUDGET_S: Final = 2.0
UNREGISTER_PAUSE_S: Final = 0.1


class SlotRegion(Protocol):
    """The shared memory that holds all slots; the real one is `orchestrator.video.slots.SlotPool`."""

    @property
    def key(self) -> str | None:
        """POSIX name, with the leading slash; None where other programs cannot open the region."""

    @property
    def byte_size(self) -> int: ...

    def offset(self, slot: int) -> int:
        """Bytes from the region's beginning to the slot's."""


class RegionRegistration:
    """Registers the slot region with Triton, once in each epoch of the connection, and remembers a refusal.

    transport: auto, shm or grpc, as the settings say. reason: why frames go over gRPC, "" when they do not.
    """

    def __init__(self, connection: TritonConnection, region: SlotRegion, transport: Transport) -> None:
        self.transport = transport
        self.reason = "TRIREEL_TRANSPORT is grpc" if transport == "grpc" else ""
        self._connection = connection
        self._region = region
        # One for each region: a Triton that goes by two addresses refuses one region under two names (seen with 2.51).
        self._name = (region.key or "").removeprefix("/")
        self._known_in_epoch: int | None = None
        self._lock = asyncio.Lock()

    async def name(self) -> str | None:
        """The name of the registered region, None when frames must go over gRPC.

        Raises SharedMemoryRefusedError where `shm` insists, TritonUnavailableError.
        """
        if self.transport == "grpc":
            return None
        async with self._lock:
            if self._known_in_epoch != self._connection.epoch:
                epoch = self._connection.epoch
                self.reason = await self._register()
                self._known_in_epoch = epoch
        if self.reason and self.transport == "shm":
            raise SharedMemoryRefusedError(f"{self.reason}; TRIREEL_TRANSPORT=auto would send frames over gRPC")
        return None if self.reason else self._name

    def forget(self) -> None:
        """Triton does not know the region, whatever it answered before: register again at the next call."""
        self._known_in_epoch = None

    def offset(self, slot: int) -> int:
        return self._region.offset(slot)

    async def unregister(self) -> None:
        """Ours only: without a name Triton would let go of everybody's regions."""
        if self._known_in_epoch is None or self.reason:
            return
        began = time.monotonic()
        while (reason := await self._unregister()) is not None:
            if time.monotonic() - began > UNREGISTER_BUDGET_S:
                log.warning("slot region not unregistered", url=self._connection.url, reason=reason)
                return
            await asyncio.sleep(UNREGISTER_PAUSE_S)

    async def _unregister(self) -> str | None:
        """Why Triton keeps the region. One that is away has forgotten it anyway."""
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=self._name)
        try:
            await self._connection.call("SystemSharedMemoryUnregister", lambda: request, timeout_s=UNREGISTER_TIMEOUT_S)
        except grpc.aio.AioRpcError as exc:
            return None if exc.code() in NO_ANSWER else exc.details()
        return None

    async def _register(self) -> str:
        """The reason of a refusal, "" once registered."""
        if self._region.key is None:
            return "this machine has no shared memory that Triton could open"
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=self._name, key=self._region.key, offset=0, byte_size=self._region.byte_size
        )
        with triton_errors("registering shared memory"):
            try:
                await self._connection.call("SystemSharedMemoryRegister", lambda: request, timeout_s=REGISTER_TIMEOUT_S)
            except grpc.aio.AioRpcError as exc:
                if exc.code() is grpc.StatusCode.ALREADY_EXISTS:
                    return ""  # The connection was lost and the server was not: the name is ours alone.
                if not is_refusal(exc):
                    raise
                reason = f"Triton refused shared memory ({exc.details()})"
                if reason != self.reason:
                    log.warning("shared memory refused", url=self._connection.url, reason=exc.details())
                return reason
        return ""


def is_refusal(exc: grpc.aio.AioRpcError) -> bool:
    """Whether the server answered that it takes no shared memory, rather than not answering at all.

    A region that it cannot open (another host or container) is INTERNAL. Servers from 26.05 on, started without
    --allow-client-shm, may use a status that absent or busy servers use as well, so there the text decides.
    """
    return exc.code() not in ERROR_BY_STATUS or "shared memory is disabled" in (exc.details() or "")
