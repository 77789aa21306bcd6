"""The way to Triton as one thing: embedded or at an address, with its model port, catalogue and readiness."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from orchestrator.errors import InferenceError
from orchestrator.inference.catalogue import TritonCatalogue
from orchestrator.inference.connection import CallCount, TritonConnection, open_connection
from orchestrator.inference.embedded import PATIENCE, EmbeddedTriton, Patience, supervise_embedded_triton
from orchestrator.inference.model import TritonModel
from orchestrator.inference.retrying import Retrying
from orchestrator.inference.slot_region import RegionRegistration, SlotRegion
from orchestrator.ports import ModelStatus
from orchestrator.settings import TritonSettings
from orchestrator.telemetry import Metrics

# Listing models for a person or a probe must not take as long as a batch of frames may.
LISTING_TIMEOUT_S: Final = 3.0
RETRYING: Final = Retrying()


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonReadiness:
    """is_ready: Triton answers and serves a model. reasons: whatever is amiss, also while it is ready.

    transport: how frames travel; transport_reason: why over gRPC. metrics_url: None where only Triton's owner knows.
    last_error: of the embedded server.
    """

    is_ready: bool
    reasons: tuple[str, ...]
    transport: Literal["shm", "grpc"]
    transport_reason: str
    grpc_url: str
    metrics_url: str | None
    last_error: str | None


class Triton:
    """model and catalogue are the ports of these names."""

    def __init__(
        self,
        *,
        model: TritonModel,
        catalogue: TritonCatalogue,
        connection: TritonConnection,
        registration: RegionRegistration,
        embedded: EmbeddedTriton | None,
    ) -> None:
        self.model = model
        self.catalogue = catalogue
        self.embedded = embedded
        self._connection = connection
        self._registration = registration

    async def wait_connected(self) -> None:
        """Until Triton can be called; raises TritonStartError if the embedded one's first start goes wrong."""
        if self.embedded is not None:
            await self.embedded.wait_ready()
        await self._connection.wait_connected()

    async def readiness(self) -> TritonReadiness:
        """Ask Triton now, within a few seconds. Does not fail."""
        served, reasons = await self._list()
        refusal = await self._refusal() if served else None
        reasons += [refusal] if refusal else []
        transport_reason = self._registration.reason
        return TritonReadiness(
            is_ready=refusal is None and any(status.is_ready for status in served),
            reasons=tuple(reasons),
            transport="grpc" if transport_reason else "shm",
            transport_reason=transport_reason,
            grpc_url=self._connection.url,
            metrics_url=self.embedded.metrics_url if self.embedded else None,
            last_error=self.embedded.last_error if self.embedded else None,
        )

    async def _refusal(self) -> str | None:
        """Why frames cannot travel at all; finding out also settles how they do."""
        try:
            await self._registration.name()
        except InferenceError as exc:
            return str(exc)
        return None

    async def _list(self) -> tuple[list[ModelStatus], list[str]]:
        """What Triton serves, and what is wrong with it."""
        try:
            statuses = list(await self.catalogue.list())
        except InferenceError as exc:
            state = f"the embedded Triton is {self.embedded.state.value}" if self.embedded else "Triton does not answer"
            return [], [f"{state}: {exc}"]
        reasons = [f"{status.name}:{status.version}: {status.reason}" for status in statuses if not status.is_ready]
        if not statuses:
            reasons.append("Triton serves no models; publish one with `make model`")
        return statuses, reasons


@asynccontextmanager
async def open_triton(
    settings: TritonSettings,
    region: SlotRegion,
    *,
    metrics: Metrics,
    log_dir: Path,
    retrying: Retrying = RETRYING,
    patience: Patience = PATIENCE,
) -> AsyncIterator[Triton]:
    """Yield at once; Triton may still be starting, or away. `region` must live longer than this.

    patience: with the embedded one.
    Raises TritonStartError where the embedded Triton is not installed or its metrics port is taken.
    """
    async with AsyncExitStack() as stack:
        embedded: EmbeddedTriton | None = None
        calls = CallCount()
        url = settings.url
        if url is None:
            embedded = await stack.enter_async_context(
                supervise_embedded_triton(settings, log_dir=log_dir, metrics=metrics, patience=patience, calls=calls)
            )
            url = embedded.grpc_url
        connection = await stack.enter_async_context(open_connection(url, calls=calls))
        registration = RegionRegistration(connection, region, settings.transport)
        stack.push_async_callback(registration.unregister)
        catalogue = TritonCatalogue(connection, timeout_s=LISTING_TIMEOUT_S, now=time.monotonic)
        model = TritonModel(
            connection,
            catalogue,
            registration,
            timeout_s=settings.timeout_s,
            metrics=metrics,
            retrying=retrying,
            is_server_broken=embedded.is_broken if embedded else lambda: False,
        )
        yield Triton(
            model=model, catalogue=catalogue, connection=connection, registration=registration, embedded=embedded
        )
