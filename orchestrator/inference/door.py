"""The way into one server: batches go in side by side, a suspect one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Door:
    """is_closed: somebody is, or is about to be, alone inside."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._one_at_a_time = asyncio.Lock()

    @property
    def is_closed(self) -> bool:
        return not self._is_open.is_set()

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        async with self._alone() if alone else self._side_by_side():
            yield

    @asynccontextmanager
    async def _side_by_side(self) -> AsyncIterator[None]:
        while self.is_closed:
            await self._is_open.wait()
        self._inside += 1
        self._is_empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._is_empty.set()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._one_at_a_time:
            self._is_open.clear()
            try:
                await self._is_empty.wait()
                yield
            finally:
                self._is_open.set()
