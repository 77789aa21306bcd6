"""What other processes are still to be told. Bounded, whatever happens: rings merge, and the newest share replaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from orchestrator.core.progress import MOST_RUNS, SHARE_LIFETIME_S, ProgressShare
from orchestrator.events.news import MOST_IDS, News

# As often as a follower is shown progress at most.
PROGRESS_INTERVAL_S: Final = 0.2

ShareKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Unsent:
    share: ProgressShare
    since_s: float

    @property
    def key(self) -> ShareKey:
        return self.share.run_id, self.share.worker_id


class Outbox:
    """origin: of the process that tells. monotonic_s: a clock for how often, and for how long, progress is told."""

    def __init__(self, *, origin: str, monotonic_s: Callable[[], float]) -> None:
        self._origin = origin
        self._monotonic_s = monotonic_s
        self._ids: set[str] = set()
        self._rings_all = False
        self._shares: dict[ShareKey, _Unsent] = {}
        self._told_s = float("-inf")
        self._is_sending = False
        self._added, self._sent = asyncio.Event(), asyncio.Event()

    def ring(self, ids: Collection[str]) -> None:
        """Without ids: everything may be new."""
        self._ids.update(ids)
        if not ids or len(self._ids) > MOST_IDS:
            self._ids.clear()
            self._rings_all = True
        self._added.set()

    def add_share(self, share: ProgressShare) -> None:
        self._put(_Unsent(share, self._monotonic_s()))
        self._added.set()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[News]:
        """What is due, once something is. What the body fails to send is kept for the next time.

        Rings are due at once, and the shares of their runs with them; other shares at most 5 times a second.
        """
        while not self._is_due():
            await self._until_due()
        ids, rings_all, shares = self._ids, self._rings_all, self._take_shares()
        self._ids, self._rings_all, self._is_sending = set(), False, True
        is_sent = False
        try:
            told = tuple(unsent.share for unsent in shares)
            yield News(origin=self._origin, ids=tuple(ids), rings_all=rings_all, shares=told)
            is_sent = True
        finally:
            self._is_sending = False
            if not is_sent:
                self._put_back(ids, rings_all, shares)
            self._sent.set()

    async def until_empty(self) -> None:
        while self._is_sending or self._has_rings or self._shares:
            self._sent.clear()
            await self._sent.wait()

    @property
    def _has_rings(self) -> bool:
        return self._rings_all or bool(self._ids)

    def _is_due(self) -> bool:
        self._forget_stale()
        return self._has_rings or (bool(self._shares) and self._progress_due_in_s() <= 0)

    def _progress_due_in_s(self) -> float:
        return self._told_s + PROGRESS_INTERVAL_S - self._monotonic_s()

    async def _until_due(self) -> None:
        self._added.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._progress_due_in_s() if self._shares else None):
                await self._added.wait()

    def _take_shares(self) -> list[_Unsent]:
        is_due = self._progress_due_in_s() <= 0
        if is_due:
            self._told_s = self._monotonic_s()
        taken = [unsent for unsent in self._shares.values() if is_due or unsent.share.run_id in self._ids]
        for unsent in taken:
            del self._shares[unsent.key]
        return taken

    def _put_back(self, ids: Collection[str], rings_all: bool, shares: Collection[_Unsent]) -> None:
        if rings_all or ids:
            self.ring([] if rings_all else ids)
        for unsent in shares:
            if unsent.key not in self._shares:
                self._put(unsent)

    def _put(self, unsent: _Unsent) -> None:
        self._shares.pop(unsent.key, None)
        self._shares[unsent.key] = unsent
        if len(self._shares) > MOST_RUNS:
            del self._shares[next(iter(self._shares))]

    def _forget_stale(self) -> None:
        """What has waited for long, for Redis to come back, says nothing of now."""
        oldest_s = self._monotonic_s() - SHARE_LIFETIME_S
        for unsent in [unsent for unsent in self._shares.values() if unsent.since_s < oldest_s]:
            del self._shares[unsent.key]
