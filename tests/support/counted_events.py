"""The events of a database that other processes write to, with the looks into it counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orchestrator.core.records import EventKind
from orchestrator.errors import StorageError
from orchestrator.testing.memory_jobs import MemoryEventStore
from orchestrator.testing.world import World

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class CountedEvents(MemoryEventStore):
    """outage: what a database that is away raises."""

    world: World = field(default_factory=World)
    outage: StorageError | None = None
    _counts: Counter[str] = field(default_factory=Counter)

    @property
    def looks(self) -> int:
        """How often somebody asked for the highest id."""
        return self._counts["last_id"]

    async def last_id(self) -> int:
        self._counts["last_id"] += 1
        if self.outage is not None:
            raise self.outage
        return await super().last_id()

    def write(self) -> None:
        """As another process does."""
        self.world.tell([(EventKind.STATE, {})], job_id="job_1", now=START)

    def delete(self) -> None:
        self.world.events.pop()
