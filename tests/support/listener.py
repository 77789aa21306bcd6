"""What tests tell a listener of the doorbell."""

from __future__ import annotations

from orchestrator.worker.orders import Orders


def orders_of(worker_id: str, redis_url: str) -> Orders:
    return Orders(worker_id=worker_id, redis_url=redis_url, log_format="text", log_level="info")
