"""A program, not a module to import: Celery beside a worker, which hears the doorbell for it.

`python -m orchestrator.worker.listener FD` reads its orders from standard input and runs one Celery worker, which takes
a ring, says so on the socket FD, and keeps the ring until it is told that nothing more was found. It knows no job and
no database; it can be killed at any moment, and ends with the process that started it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import warnings

import msgspec
from celery.platforms import SecurityWarning
from celery.signals import worker_ready

from orchestrator.scheduling.celery_program import QUEUE, TASK, build_celery
from orchestrator.telemetry import configure_logging
from orchestrator.worker.orders import LISTENS, RANG, Orders


class Parent:
    """The worker at the other end of the socket."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._may_go_on = threading.Event()

    def listen(self) -> None:
        """Until the worker is gone, which ends this process, whatever Celery is doing."""
        try:
            while self._link.recv(1):
                self._may_go_on.set()
        finally:
            # Also where the worker went without having read everything, which resets the connection.
            os._exit(0)

    def tell_of_start(self, **_: object) -> None:
        """Celery is connected, and takes rings from here on."""
        self._link.sendall(LISTENS)

    def answer_ring(self) -> None:
        """Tell the worker of a ring, and wait until it found nothing more."""
        self._may_go_on.clear()
        self._link.sendall(RANG)
        self._may_go_on.wait()


def main(arguments: list[str]) -> None:
    (descriptor,) = arguments
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    configure_logging(orders.log_format, orders.log_level)
    # It tells of every ring that it takes and lets go of.
    logging.getLogger("celery").setLevel(max(logging.getLogger().level, logging.WARNING))
    # That root runs tasks is a danger where messages are pickles; these are JSON, and the one task has no arguments.
    warnings.simplefilter("ignore", SecurityWarning)
    parent = Parent(socket.socket(fileno=int(descriptor)))
    threading.Thread(target=parent.listen, name="parent", daemon=True).start()
    celery = build_celery(orders.redis_url)
    celery.task(name=TASK)(parent.answer_ring)
    worker_ready.connect(parent.tell_of_start, weak=False)
    celery.Worker(
        hostname=orders.worker_id,
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
