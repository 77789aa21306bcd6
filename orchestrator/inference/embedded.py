"""The embedded Triton: the bundled `tritonserver`, supervised. It starts again on the same ports when it dies."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from orchestrator.errors import TritonStartError
from orchestrator.inference.connection import CallCount
from orchestrator.inference.hang_watch import HangWatch
from orchestrator.inference.installation import (
    LOOPBACK,
    REGION_PREFIX,
    ServerPorts,
    build_command,
    build_environment,
    check_platform,
    find_installation,
    link_backends,
)
from orchestrator.inference.port_reservation import reserve_ports
from orchestrator.inference.server_process import HEALTH_TIMEOUT_S, ServerProcess, is_live
from orchestrator.settings import TritonSettings
from orchestrator.telemetry import Metrics

log = structlog.get_logger(__name__)

FIRST_RESTART_DELAY_S: Final = 0.2
LONGEST_RESTART_DELAY_S: Final = 30.0
# In the log's folder, which one server has to itself: nothing is left elsewhere, however it ends.
BACKENDS_FOLDER: Final = "triton_backends"
# A server that lived so long did not die of its start: the delay begins anew.
HEALTHY_AFTER_S: Final = 60.0
# Answering people comes first, then decoding (`video/confinement.py`), then inference, which takes all the rest anyway.
NICENESS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """start_s: until the server must answer. hung_s: how long it may answer nothing while it is called."""

    start_s: float = 300.0
    hung_s: float = 15.0


PATIENCE: Final = Patience()


class EmbeddedState(StrEnum):
    """starting: also after it died. failed: the last start went wrong; another one follows."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """What is started each time. calls: to the server, counted by whoever makes them."""

    command: list[str]
    environment: Mapping[str, str]
    ports: ServerPorts
    log_path: Path
    region_prefix: str
    patience: Patience
    calls: CallCount


class EmbeddedTriton:
    """A supervised server; addresses stay the same over restarts. state and last_error are for people."""

    def __init__(self, plan: ServerPlan, *, metrics: Metrics, now: Callable[[], float]) -> None:
        self._plan = plan
        self._metrics = metrics
        self._now = now
        self._process: ServerProcess | None = None
        self._first_outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.state = EmbeddedState.STARTING
        self.last_error: str | None = None

    @property
    def grpc_url(self) -> str:
        return f"{LOOPBACK}:{self._plan.ports.grpc}"

    @property
    def http_url(self) -> str:
        return f"http://{LOOPBACK}:{self._plan.ports.http}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self._plan.ports.metrics}/metrics"

    @property
    def region_prefix(self) -> str:
        """What the names of its Python backend's shared memory begin with, and no other server's."""
        return self._plan.region_prefix

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        return self._process.pid if self._process else None

    def is_broken(self) -> bool:
        """Whether it is down, or about to be started again because a model lost its process."""
        return self._process is None or self.state is not EmbeddedState.READY or bool(self._process.dead_children())

    async def wait_ready(self) -> None:
        """Wait for the first start. Raises TritonStartError if that went wrong."""
        await asyncio.shield(self._first_outcome)

    async def keep_running(self) -> None:
        """Start the server, and again when it dies, until cancelled."""
        delay_s = FIRST_RESTART_DELAY_S
        try:
            while True:
                began = self._now()
                await self._live_once()
                if self._now() - began > HEALTHY_AFTER_S:
                    delay_s = FIRST_RESTART_DELAY_S
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, LONGEST_RESTART_DELAY_S)
                self._metrics.triton_restarts.inc()
                self.state = EmbeddedState.STARTING
        finally:
            self.state = EmbeddedState.STOPPED

    async def _live_once(self) -> None:
        """From a start until the server is broken; afterwards nothing of it is left."""
        plan = self._plan
        try:
            self._process = await ServerProcess.start(
                plan.command, environment=plan.environment, log_path=plan.log_path, region_prefix=plan.region_prefix
            )
            await self._process.wait_ready(plan.ports.http, timeout_s=plan.patience.start_s)
            self._become_ready()
            self.last_error = await self._process.wait_broken(self._hang_watch())
            self.state = EmbeddedState.STARTING
            log.warning("embedded triton broke", reason=self.last_error)
            await self._process.kill()
        except TritonStartError as exc:
            self._fail(exc)
        finally:
            process, self._process = self._process, None
            if process is not None:
                await process.stop()

    def _hang_watch(self) -> HangWatch:
        port, limit_s = self._plan.ports.http, self._plan.patience.hung_s
        timeout_s = min(HEALTH_TIMEOUT_S, limit_s)
        return HangWatch(self._plan.calls, lambda: is_live(port, timeout_s=timeout_s), limit_s=limit_s, now=self._now)

    def _become_ready(self) -> None:
        self.state = EmbeddedState.READY
        log.info("embedded triton ready", grpc_url=self.grpc_url, pid=self.pid, log=str(self._plan.log_path))
        if not self._first_outcome.done():
            self._first_outcome.set_result(None)

    def _fail(self, exc: TritonStartError) -> None:
        self.state = EmbeddedState.FAILED
        self.last_error = str(exc)
        log.error("embedded triton did not start", reason=self.last_error)
        if not self._first_outcome.done():
            self._first_outcome.set_exception(exc)
            self._first_outcome.exception()  # Mark it as seen: nobody need wait for the first start.


@asynccontextmanager
async def supervise_embedded_triton(
    settings: TritonSettings,
    *,
    log_dir: Path,
    metrics: Metrics,
    repository: Path | None = None,
    config_name: str = "embedded",
    patience: Patience = PATIENCE,
    calls: CallCount | None = None,
) -> AsyncIterator[EmbeddedTriton]:
    """Yield at once while the server starts; it is stopped at the end.

    repository: instead of the settings' own. calls: those of `open_connection`; without them a server that hangs is
    left alone. Must be entered on the main thread's loop, since the server ends with the thread that started it.
    Raises TritonStartError where the installation cannot work or a port is taken.
    """
    check_platform()
    _check_repository(repository or settings.model_repository)
    installation = await find_installation(settings.environment)
    with ExitStack() as stack:
        ports = ServerPorts(*stack.enter_context(reserve_ports(LOOPBACK, (0, 0, settings.metrics_port))))
        region_prefix = f"{REGION_PREFIX}{secrets.token_hex(8)}_"
        command = build_command(
            installation,
            repository=repository or settings.model_repository,
            config_name=config_name,
            backends=link_backends(installation, log_dir / BACKENDS_FOLDER),
            ports=ports,
            region_prefix=region_prefix,
            niceness=NICENESS,
        )
        plan = ServerPlan(
            command=command,
            environment=build_environment(installation, os.environ),
            ports=ports,
            log_path=log_dir / "triton.log",
            region_prefix=region_prefix,
            patience=patience,
            calls=calls or CallCount(),
        )
        triton = EmbeddedTriton(plan, metrics=metrics, now=time.monotonic)
        async with _beside(triton.keep_running()):
            yield triton


@asynccontextmanager
async def open_embedded_triton(
    settings: TritonSettings,
    *,
    log_dir: Path,
    metrics: Metrics,
    repository: Path | None = None,
    config_name: str = "embedded",
    patience: Patience = PATIENCE,
) -> AsyncIterator[EmbeddedTriton]:
    """As `supervise_embedded_triton`, but yield a server that answers: every model is loaded or has failed to.

    Raises TritonStartError.
    """
    async with supervise_embedded_triton(
        settings,
        log_dir=log_dir,
        metrics=metrics,
        repository=repository,
        config_name=config_name,
        patience=patience,
    ) as triton:
        await triton.wait_ready()
        yield triton


def _check_repository(repository: Path) -> None:
    # Seen with 2.51: without its repository the server neither exits nor answers.
    if not repository.is_dir():
        raise TritonStartError(f"the model repository {repository} is no folder; set TRIREEL_MODEL_REPOSITORY to one")


@asynccontextmanager
async def _beside(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Work beside the body and cancel it at the end. A lone exception leaves as itself instead of in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            yield
            task.cancel()
    except BaseExceptionGroup as failures:
        if len(failures.exceptions) == 1:
            raise failures.exceptions[0] from failures.exceptions[0].__cause__
        raise
