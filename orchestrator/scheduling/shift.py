"""When those who take work have found nothing: what a worker of a cluster needs to know to let go of a ring."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orchestrator.ports import Doorbell
from orchestrator.scheduling.local import Loop, Step


@dataclass(slots=True)
class Shift:
    """Wakes the takers of a process, and tells when every one of them has looked since and found nothing."""

    bell: Doorbell
    _asked: int = 0
    _idle_since: dict[str, int] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def taker(self, name: str, step: Step) -> Loop:
        """A loop over `step`, whose looks count."""
        self._idle_since[name] = 0

        async def look() -> bool:
            asked = self._asked
            has_worked = await step()
            if not has_worked:
                self._idle_since[name] = asked
                self._changed.set()
            return has_worked

        return Loop(name, look)

    async def work_until_idle(self) -> None:
        """Wake all takers and wait until each found nothing that was there at this moment."""
        self._asked += 1
        asked = self._asked
        self.bell.ring()
        while min(self._idle_since.values(), default=asked) < asked:
            self._changed.clear()
            await self._changed.wait()
