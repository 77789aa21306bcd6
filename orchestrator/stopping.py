"""What a signal does to a program: it ends what it is doing, in order, and exits with 0."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stopper:
    """stop: what a signal calls; while it is None, as during a start, the task that listens is cancelled once."""

    def __init__(self) -> None:
        self.stop: Callable[[], None] | None = None
        self.has_cancelled = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals of the present task's loop; on other threads than the main one there are none."""
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        if task is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop, task)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def _stop(self, task: asyncio.Task[object]) -> None:
        if self.stop is not None:
            self.stop()
        elif not self.has_cancelled:
            self.has_cancelled = True
            task.cancel()
