"""Celery as both ends of the doorbell know it: one queue, one task, and what is said of neither twice.

Celery carries "there may be work" and nothing else: what the work is, and whose turn it is, the database says. A
message that is lost, sent twice or heard too late therefore does no harm, and nothing is kept of it.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from celery import Celery

QUEUE: Final = "trireel.work"
TASK: Final = "trireel.work"
# A ring that was taken and not answered is somebody else's after so long; workers look by themselves meanwhile.
REDELIVERY_S: Final = 30
# A broker that does not answer is given up after so long, and tried again.
SOCKET_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0


def build_celery(redis_url: str) -> Celery:
    """An app that is nobody's default. Connects to nothing by itself."""
    app = Celery("trireel", broker=redis_url, set_as_current=False, autofinalize=False)
    app.conf.update(_configuration())
    if redis_url.startswith("rediss://"):
        # kombu's own default believes whoever answers; `ssl_cert_reqs` in the URL wins over this.
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


def _configuration() -> dict[str, Any]:
    return {
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        # One at a time, so that what a worker has no hands for stays in the queue for another one.
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": 1,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "broker_connection_timeout": CONNECT_TIMEOUT_S,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "visibility_timeout": REDELIVERY_S,
        },
    }
