"""A bound on the frames that wait for Triton at once, over all segments of the process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FrameWindow:
    """Counts frames, not requests, since a request's memory and time go with its frames. First come, first served.

    Triton itself is first-in-first-out: what it holds can be neither reordered nor taken back, so little is sent.
    """

    def __init__(self, capacity: int) -> None:
        """capacity: frames."""
        self._capacity = capacity
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def held(self) -> int:
        return self._held

    def widen(self, capacity: int) -> None:
        """Raise the capacity to `capacity` if it is smaller: a model with more instances takes more at once."""
        self._capacity = max(self._capacity, capacity)
        self._admit()

    @asynccontextmanager
    async def hold(self, frames: int) -> AsyncIterator[None]:
        """Room for `frames`; a request larger than the whole window waits until it is alone."""
        turn = asyncio.get_running_loop().create_future()
        waiting = (frames, turn)
        self._waiting.append(waiting)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(frames)
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
                self._admit()
            raise
        try:
            yield
        finally:
            self._release(frames)

    def _release(self, frames: int) -> None:
        self._held -= frames
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            frames, turn = self._waiting[0]
            if self._held and self._held + frames > self._capacity:
                return
            self._waiting.popleft()
            if not turn.cancelled():
                self._held += frames
                turn.set_result(None)
