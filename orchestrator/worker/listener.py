"""A program, not a module to import: Celery beside a worker, which hears the doorbell for it.

`python -m orchestrator.worker.listener FD WORKER_ID` runs one Celery worker that takes a ring, says so on the socket
FD, and keeps the ring until it is told that the worker found nothing more. It knows no job and no database; it can be
killed at any moment, and ends with the process that started it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import warnings
from typing import Final

from celery.platforms import SecurityWarning

from orchestrator.scheduling.celery_program import QUEUE, TASK, build_celery
from orchestrator.settings import load_settings
from orchestrator.telemetry import configure_logging

RANG: Final = b"r"
FOUND_NOTHING: Final = b"n"


class Parent:
    """The worker at the other end of the socket."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._may_go_on = threading.Event()

    def listen(self) -> None:
        """Until the worker is gone, which ends this process, whatever Celery is doing."""
        while self._link.recv(1):
            self._may_go_on.set()
        os._exit(0)

    def answer_ring(self) -> None:
        """Tell the worker of a ring, and wait until it found nothing more."""
        self._may_go_on.clear()
        self._link.sendall(RANG)
        self._may_go_on.wait()


def main(arguments: list[str]) -> None:
    descriptor, worker_id = arguments
    settings = load_settings(os.environ)
    configure_logging(settings.log.format, settings.log.level)
    # It tells of every ring that it takes and lets go of.
    logging.getLogger("celery").setLevel(max(logging.getLogger().level, logging.WARNING))
    # That root runs tasks is a danger where messages are pickles; these are JSON, and the one task has no arguments.
    warnings.simplefilter("ignore", SecurityWarning)
    assert settings.redis.url is not None, "a worker without Redis starts no listener"
    parent = Parent(socket.socket(fileno=int(descriptor)))
    threading.Thread(target=parent.listen, name="parent", daemon=True).start()
    celery = build_celery(settings.redis.url)
    celery.task(name=TASK)(parent.answer_ring)
    celery.Worker(
        hostname=worker_id,
        # In the main thread, and nothing else meanwhile: whoever is busy takes no second ring.
        pool="solo",
        queues=[QUEUE],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    ).start()


if __name__ == "__main__":
    main(sys.argv[1:])
