"""Doorbells and progress inside one process and one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.progress import MOST_RUNS, ProgressShare, ShareBoard, combined
from orchestrator.core.records import Progress
from orchestrator.ports import Wake

# Of a run that has shares: somebody works on it.
STAGE: Final = "inferring"


@dataclass(slots=True, eq=False)
class MemorySubscription:
    """Holds one flag and the newest snapshot of each run, so one that is slow, or never reads, costs nothing more."""

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
        self._progress.pop(progress.run_id, None)
        self._progress[progress.run_id] = progress
        if len(self._progress) > MOST_RUNS:
            del self._progress[next(iter(self._progress))]
        self._news.set()


class MemoryEventBus:
    """`ports.EventBus` in one process. hears_all: False where other processes are at work that cannot be heard here.

    monotonic_s: a clock for how long a share counts.
    """

    def __init__(self, *, hears_all: bool = True, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._hears_all = hears_all
        self._monotonic_s = monotonic_s
        self._board = ShareBoard()
        self._subscriptions: set[MemorySubscription] = set()
        self._subscribed = asyncio.Event()

    @property
    def hears_all(self) -> bool:
        return self._hears_all

    @property
    def has_subscribers(self) -> bool:
        return self._subscribed.is_set()

    async def until_subscribed(self) -> None:
        await self._subscribed.wait()

    async def ring(self, *ids: str) -> None:
        for subscription in self._subscriptions:
            if subscription.hears(ids):
                subscription.note_ring()

    def ring_all(self) -> None:
        """Anything may be new: wake every subscriber."""
        for subscription in self._subscriptions:
            subscription.note_ring()

    async def publish_progress(self, share: ProgressShare) -> None:
        if not self._board.put(share, now_s=self._monotonic_s()):
            return
        hearing = [each for each in self._subscriptions if each.hears((share.run_id,))]
        if hearing:
            progress = combined(share.run_id, self.shares(share.run_id), stage=STAGE)
            for subscription in hearing:
                subscription.note_progress(progress)

    def shares(self, run_id: str) -> Sequence[ProgressShare]:
        return self._board.of_run(run_id, now_s=self._monotonic_s())

    @asynccontextmanager
    async def subscribe(self, *ids: str) -> AsyncIterator[MemorySubscription]:
        subscription = MemorySubscription(frozenset(ids))
        self._subscriptions.add(subscription)
        self._subscribed.set()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if not self._subscriptions:
                self._subscribed.clear()
