"""Telling a server that hangs from one that is busy, or that nobody asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.inference.connection import CallCount


class HangWatch:
    """Looks at one life of a server, again and again.

    calls: to that server, counted by whoever makes them. is_live: one question to it, with a deadline of its own; it is
    asked only while calls go without an answer, so that watching a healthy server costs nothing. limit_s: how long
    nothing at all may be answered, from the first such question on.
    """

    def __init__(
        self, calls: CallCount, is_live: Callable[[], Awaitable[bool]], *, limit_s: float, now: Callable[[], float]
    ) -> None:
        self._calls = calls
        self._is_live = is_live
        self._limit_s = limit_s
        self._now = now
        self._answered = calls.answered
        self._unanswered = calls.unanswered
        self._silent_since_s: float | None = None

    async def is_hung(self) -> bool:
        if self._calls.answered != self._answered:
            self._begin_anew()
        if self._calls.unanswered == self._unanswered:
            return False
        asked_s = self._now()
        if await self._is_live():
            self._begin_anew()
            return False
        if self._silent_since_s is None:
            self._silent_since_s = asked_s
        return self._now() - self._silent_since_s >= self._limit_s

    def _begin_anew(self) -> None:
        self._answered, self._unanswered = self._calls.answered, self._calls.unanswered
        self._silent_since_s = None
