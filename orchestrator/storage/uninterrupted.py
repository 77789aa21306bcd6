"""Transactions that run to their end, also when whoever began them is cancelled.

SQLAlchemy (2.1) gives a connection up whose call is cancelled, and with aiosqlite it may stay open in the middle of its
transaction: every other writer then waits for SQLite's busy time-out and fails.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

Store = TypeVar("Store")
Result = TypeVar("Result")


class Transactions:
    """The transactions under way; `aclose` waits for those whose callers have left."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def finish(self, transaction: Coroutine[Any, Any, Result]) -> Result:
        """Run the transaction in a task of its own; a cancelled caller leaves at once, the transaction goes on."""
        task = asyncio.ensure_future(transaction)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        if self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # Looked at here, since a caller that left does not.
        if not task.cancelled() and task.exception() is not None:
            log.debug("transaction failed", error=str(task.exception()))


def uninterrupted(store: type[Store]) -> type[Store]:
    """Make every coroutine method of a store one that `Transactions.finish` runs; the store has `_database`."""
    for name, method in list(vars(store).items()):
        if inspect.iscoroutinefunction(method):
            setattr(store, name, _finishing(method))
    return store


def _finishing(method: Callable[..., Coroutine[Any, Any, Result]]) -> Callable[..., Coroutine[Any, Any, Result]]:
    @wraps(method)
    async def finishing(self: Any, *args: Any, **kwargs: Any) -> Result:
        result: Result = await self._database.transactions.finish(method(self, *args, **kwargs))
        return result

    return finishing
