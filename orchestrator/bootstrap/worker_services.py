"""A worker of a cluster: takes segments that others planned, and nothing else."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from orchestrator.bootstrap.foundation import open_foundation
from orchestrator.errors import SettingsError
from orchestrator.scheduling.doorbell import Doorbells
from orchestrator.scheduling.local import LOOK_AGAIN_S, run_loops
from orchestrator.scheduling.shift import Shift
from orchestrator.settings import Settings
from orchestrator.storage.engine import is_shareable
from orchestrator.telemetry import serving_metrics

# While somebody rings; many workers that look every second would be most of what the database does.
LOOK_AGAIN_BESIDE_RINGS_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerServices:
    """doorbells: None where no Redis rings. metrics_port: where /metrics answers."""

    worker_id: str
    shift: Shift
    doorbells: Doorbells | None
    metrics_port: int


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[WorkerServices]:
    """Open what taking segments needs, and begin to take them.

    Raises SettingsError where the database cannot be shared, and as `open_foundation`.
    """
    if not is_shareable(settings.storage.database_url):
        raise SettingsError(
            "a worker shares its database with the API, and SQLite cannot be shared; set TRIREEL_DATABASE_URL to the "
            "PostgreSQL of the API"
        )
    takers = settings.work.decoders
    async with AsyncExitStack() as stack:
        triton_log_dir = settings.storage.data_dir / "logs"
        if not settings.triton.urls:
            # The data directory is everybody's; what an embedded Triton writes is this worker's own.
            folder = TemporaryDirectory(prefix="trireel-worker-", ignore_cleanup_errors=True)
            triton_log_dir = Path(stack.enter_context(folder))
        foundation = await stack.enter_async_context(
            open_foundation(settings, takers=takers, triton_log_dir=triton_log_dir)
        )
        metrics_port = stack.enter_context(
            serving_metrics(foundation.metrics, settings.http.host, settings.work.metrics_port)
        )
        shift = Shift(foundation.bell)
        loops = [
            *(shift.taker(f"worker-{n}", foundation.use_cases.worker().work_once) for n in range(takers)),
            *foundation.background,
        ]
        look_again_s = LOOK_AGAIN_BESIDE_RINGS_S if foundation.doorbells else LOOK_AGAIN_S
        await stack.enter_async_context(
            run_loops(
                loops, foundation.bell, stop_timeout_s=settings.http.stop_timeout_s / 2, look_again_s=look_again_s
            )
        )
        yield WorkerServices(
            worker_id=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            shift=shift,
            doorbells=foundation.doorbells,
            metrics_port=metrics_port,
        )
