"""Ports whose n-th call fails, or is the last thing that its process does: SQLite's way of testing, on our ports."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Strike(Enum):
    """What becomes of the n-th call."""

    FAILS = "fails, and nothing has happened"
    FAILS_LATE = "fails, and has happened all the same"
    LAST_BEFORE = "is the one before which the process dies"
    LAST = "is the last that the process does"

    @property
    def is_deadly(self) -> bool:
        return self in (Strike.LAST_BEFORE, Strike.LAST)

    @property
    def is_late(self) -> bool:
        return self in (Strike.FAILS_LATE, Strike.LAST)


class ProcessDied(BaseException):
    """Nothing of this process has any effect from here on; no handler of errors may take it for one."""


@dataclass(slots=True)
class CallCounter:
    """strikes_at: number of the call, 1 is the first. error: what a call fails with. calls: counted so far."""

    strikes_at: int
    strike: Strike
    error: Callable[[], Exception]
    calls: list[str] = field(default_factory=list)
    hit: str | None = None
    is_dead: bool = False

    def enter(self, name: str) -> bool:
        """Whether the strike falls on this call, after it. Raises the error, or ProcessDied, if it falls before."""
        if self.is_dead:
            raise ProcessDied
        self.calls.append(name)
        if len(self.calls) != self.strikes_at:
            return False
        self.hit = f"call {self.strikes_at}, {name}, {self.strike.value}"
        if not self.strike.is_late:
            self.fall()
        return self.strike.is_late

    def fall(self) -> None:
        self.is_dead = self.strike.is_deadly
        raise ProcessDied if self.is_dead else self.error()

    def start_anew(self) -> None:
        """The process is started again."""
        self.is_dead = False


class CountedPort:
    """A port whose coroutines are counted; what is neither coroutine nor generator is passed on."""

    def __init__(self, port: Any, label: str, counter: CallCounter) -> None:
        self._port = port
        self._label = label
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._port, name)
        label = f"{self._label}.{name}"
        if inspect.iscoroutinefunction(member):
            return self._counted(member, label)
        if inspect.isasyncgenfunction(member):
            return self._counted_stream(member, label)
        if inspect.isasyncgenfunction(inspect.unwrap(member)):
            return self._counted_context(member, label)
        return member

    def _counted(self, method: Callable[..., Any], label: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            is_struck = self._counter.enter(label)
            result = await method(*args, **kwargs)
            if is_struck:
                self._counter.fall()
            return result

        return call

    def _counted_stream(self, method: Callable[..., Any], label: str) -> Callable[..., Any]:
        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            is_struck = self._counter.enter(label)
            async for item in method(*args, **kwargs):
                yield item
            if is_struck:
                self._counter.fall()

        return stream

    def _counted_context(self, method: Callable[..., Any], label: str) -> Callable[..., Any]:
        """What it opens is a port too."""

        @asynccontextmanager
        async def open_(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with method(*args, **kwargs) as opened:
                yield CountedPort(opened, label, self._counter)

        return open_
