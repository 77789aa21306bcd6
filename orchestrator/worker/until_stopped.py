"""Working until a signal says stop, and then handing back what is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog
import uvloop

from orchestrator.bootstrap import WorkerServices
from orchestrator.settings import Settings
from orchestrator.stopping import Stopper
from orchestrator.worker.hearing import Hearing
from orchestrator.worker.orders import Orders

log = structlog.get_logger()

OpenWorker = Callable[[Settings], AbstractAsyncContextManager[WorkerServices]]


def run(settings: Settings, open_worker: OpenWorker) -> None:
    """`work`, on a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(settings, open_worker))


async def work(settings: Settings, open_worker: OpenWorker) -> None:
    """Take segments until SIGTERM or SIGINT. Raises what `open_worker` raises."""
    stopper = Stopper()
    stopping = asyncio.Event()
    with stopper.listening():
        try:
            async with open_worker(settings) as services, _hearing(services, settings):
                stopper.stop = stopping.set
                log.info("worker started", worker_id=services.worker_id, metrics_port=services.metrics_port)
                await stopping.wait()
                log.info("worker stops")
        except asyncio.CancelledError:
            if not stopper.has_cancelled:
                raise
            log.info("stopped while starting")


@asynccontextmanager
async def _hearing(services: WorkerServices, settings: Settings) -> AsyncIterator[None]:
    """Without Redis nobody rings, and the worker looks by itself."""
    if services.doorbells is None or settings.redis.url is None:
        yield
        return
    orders = Orders(
        worker_id=services.worker_id,
        redis_url=settings.redis.url,
        log_format=settings.log.format,
        log_level=settings.log.level,
    )
    hearing = Hearing(orders=orders, doorbells=services.doorbells, work_until_idle=services.shift.work_until_idle)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hearing.keep_hearing())
        yield
        task.cancel()
