"""Followers beside the work: a stream that is read in the background, and waiting for what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from orchestrator.following import StreamEvent

# Less than the 15 s after which a stream looks into the database unasked: nothing shall rely on that.
WAIT_S = 12.0


@dataclass(slots=True)
class Follower:
    """told: so far, pings left out."""

    told: list[StreamEvent] = field(default_factory=list)
    is_over: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, stream: AsyncIterator[StreamEvent | None]) -> None:
        async for event in stream:
            if event is not None:
                self.told.append(event)
                self._news.set()
        self.is_over = True
        self._news.set()

    def of_kind(self, *kinds: str) -> list[StreamEvent]:
        return [event for event in self.told if event.kind in kinds]

    @property
    def progress(self) -> list[int]:
        """The frames done, each time they were told."""
        return [int(event.body["frames_done"]) for event in self.of_kind("progress")]  # type: ignore[arg-type]

    async def until(self, is_so: Callable[[Follower], bool]) -> None:
        """Wait for something that was told. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while not is_so(self):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def following(stream: AsyncIterator[StreamEvent | None]) -> AsyncIterator[Follower]:
    """Read the stream until the end of the block, whether it ends or not."""
    follower = Follower()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(follower.read(stream))
        try:
            yield follower
        finally:
            reading.cancel()
