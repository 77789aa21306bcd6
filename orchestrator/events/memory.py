"""Doorbells and progress snapshots inside one process and one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from orchestrator.core.records import Progress
from orchestrator.ports import Wake


@dataclass(slots=True, eq=False)
class MemorySubscription:
    """Holds one flag and the newest snapshot of each run, so a slow receiver costs nothing more."""

    ids: frozenset[str]
    _rang: bool = False
    _progress: dict[str, Progress] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self, *, timeout_s: float) -> Wake:
        """As `ports.Subscription.next`; what came is kept when the wait is cancelled."""
        # Quiet for so long is an answer too: an empty wake.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        wake = Wake(rang=self._rang, progress=self._progress)
        self._rang, self._progress = False, {}
        self._news.clear()
        return wake

    def hears(self, ids: Collection[str]) -> bool:
        return not self.ids or not self.ids.isdisjoint(ids)

    def note_ring(self) -> None:
        self._rang = True
        self._news.set()

    def note_progress(self, progress: Progress) -> None:
        self._progress[progress.run_id] = progress
        self._news.set()


class MemoryEventBus:
    """`ports.EventBus` in one process."""

    def __init__(self) -> None:
        self._subscriptions: set[MemorySubscription] = set()

    async def ring(self, *ids: str) -> None:
        for subscription in self._subscriptions:
            if subscription.hears(ids):
                subscription.note_ring()

    async def publish_progress(self, progress: Progress) -> None:
        for subscription in self._subscriptions:
            if subscription.hears((progress.run_id,)):
                subscription.note_progress(progress)

    @asynccontextmanager
    async def subscribe(self, *ids: str) -> AsyncIterator[MemorySubscription]:
        subscription = MemorySubscription(frozenset(ids))
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
