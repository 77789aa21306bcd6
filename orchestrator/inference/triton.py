"""The way to Triton as one thing: embedded or at addresses, with its model port, catalogue and readiness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from orchestrator.inference.catalogue import TritonCatalogue
from orchestrator.inference.connection import CallCount, open_connection
from orchestrator.inference.embedded import PATIENCE, EmbeddedTriton, Patience, supervise_embedded_triton
from orchestrator.inference.endpoint import Endpoint
from orchestrator.inference.merged_catalogue import MergedCatalogue
from orchestrator.inference.model import TritonModel
from orchestrator.inference.readiness import TritonReadiness, endpoint_readiness, over_all
from orchestrator.inference.retrying import Retrying
from orchestrator.inference.slot_region import RegionRegistration, SlotRegion
from orchestrator.settings import TritonSettings
from orchestrator.telemetry import Metrics

# Listing models for a person or a probe must not take as long as a batch of frames may.
LISTING_TIMEOUT_S: Final = 3.0
RETRYING: Final = Retrying()


class Triton:
    """model and catalogue are the ports of these names. embedded: None where the servers are somebody else's."""

    def __init__(
        self, endpoints: Sequence[Endpoint], embedded: EmbeddedTriton | None, *, metrics: Metrics, retrying: Retrying
    ) -> None:
        self.model = TritonModel(endpoints, metrics=metrics, retrying=retrying)
        self.catalogue = MergedCatalogue(endpoints)
        self.embedded = embedded
        self._endpoints = endpoints

    async def wait_connected(self) -> None:
        """Until a Triton can be called; raises TritonStartError if the embedded one's first start goes wrong."""
        if self.embedded is not None:
            await self.embedded.wait_ready()
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(each.connection.wait_connected()) for each in self._endpoints]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def readiness(self) -> TritonReadiness:
        """Ask every Triton now, within a few seconds. Does not fail."""
        told = await self.catalogue.ask_all()
        state = f"the embedded Triton is {self.embedded.state.value}" if self.embedded else "Triton does not answer"
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(endpoint_readiness(endpoint, each, state=state))
                for endpoint, each in zip(self._endpoints, told, strict=True)
            ]
        return over_all(
            [each.result() for each in asked],
            told,
            metrics_url=self.embedded.metrics_url if self.embedded else None,
            last_error=self.embedded.last_error if self.embedded else None,
        )


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

    patience: with the embedded one. Raises TritonStartError where the embedded Triton is not installed or its metrics
    port is taken.
    """
    async with AsyncExitStack() as stack:
        embedded: EmbeddedTriton | None = None
        calls = CallCount()
        urls = settings.urls
        if not urls:
            embedded = await stack.enter_async_context(
                supervise_embedded_triton(settings, log_dir=log_dir, metrics=metrics, patience=patience, calls=calls)
            )
            urls = (embedded.grpc_url,)
        endpoints = []
        for url in urls:
            connection = await stack.enter_async_context(open_connection(url, calls=calls if embedded else None))
            endpoints.append(
                Endpoint(
                    connection,
                    TritonCatalogue(connection, timeout_s=LISTING_TIMEOUT_S, now=time.monotonic),
                    RegionRegistration(connection, region, settings.transport),
                    timeout_s=settings.timeout_s,
                    is_broken=embedded.is_broken if embedded else lambda: False,
                )
            )
        stack.push_async_callback(_unregister, endpoints)
        yield Triton(endpoints, embedded, metrics=metrics, retrying=retrying)


async def _unregister(endpoints: Sequence[Endpoint]) -> None:
    """At all at once: one that is away takes its time."""
    async with asyncio.TaskGroup() as group:
        for endpoint in endpoints:
            group.create_task(endpoint.registration.unregister())
