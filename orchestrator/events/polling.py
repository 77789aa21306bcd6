"""Hearing of other processes without messages: now and then, the database is asked whether it has newer events."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from orchestrator.events.memory import MemoryEventBus
from orchestrator.ports import Doorbell, EventStore

POLL_S: Final = 0.25
# While nobody follows; what a worker that is not rung for hears of new work by.
IDLE_POLL_S: Final = 1.0


@dataclass(slots=True, kw_only=True)
class EventPoll:
    """Rings for what other processes wrote, as long as their messages do not come.

    bus: of this process. work: rung too, since what is new may be work. away: set while messages do not come.
    idle_poll_s: between looks while nobody here follows anything.
    """

    events: EventStore
    bus: MemoryEventBus
    work: Doorbell
    away: asyncio.Event
    poll_s: float = POLL_S
    idle_poll_s: float = IDLE_POLL_S
    _seen_id: int | None = None

    async def step(self) -> bool:
        """Look once, and wait until the next look is due. Raises StorageError."""
        if not self.away.is_set():
            self._seen_id = None
            await self.away.wait()
        # The highest id alone: an index answers it. The first look always rings, for what was missed before it.
        last_id = await self.events.last_id()
        if last_id != self._seen_id:
            self._seen_id = last_id
            self.bus.ring_all()
            self.work.ring()
        await self._until_due()
        return True

    async def _until_due(self) -> None:
        if self.bus.has_subscribers:
            await asyncio.sleep(self.poll_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self.idle_poll_s):
                await self.bus.until_subscribed()
                # An event that came and went since the last look would leave no trace; the subscriber may know it.
                self._seen_id = None
