"""Telling the world that jobs moved: log, metrics, watchers and workers, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from orchestrator.core.records import Job
from orchestrator.ports import Doorbell, EventBus
from orchestrator.telemetry import Metrics

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcer:
    """work: rung because a job that moved may be work, or may have made a place free."""

    bus: EventBus
    work: Doorbell
    metrics: Metrics

    async def announce(self, jobs: Sequence[Job]) -> None:
        """Tell of jobs that have just moved; the database has it already."""
        for job in jobs:
            log.info("job moved", job_id=job.id, run_id=job.run_id, state=job.state.value)
            if job.state.is_terminal:
                self.metrics.jobs_finished.labels(job.state.value).inc()
            if job.failure:
                self.metrics.job_failures.labels(job.failure.code).inc()
            await self.bus.ring(job.id, job.run_id)
        if jobs:
            self.work.ring()

    async def removed(self, job_id: str) -> None:
        """Tell of a job that was deleted: its watchers end, and its place is free."""
        log.info("job removed", job_id=job_id)
        await self.bus.ring(job_id)
        self.work.ring()
