"""The time by which leases end: where servers share a database, the database's, whatever their own clocks show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from sqlalchemy import Connection, text

from orchestrator.storage.engine import Database

# Between two settings: a clock that runs wrong by 100 ppm, more than quartz does, is out by 6 ms by then.
SET_EVERY_S: Final = 60.0
# The quickest of so many answers tells the time best: it is right to half of what it took.
QUESTIONS: Final = 3
# Not `now()`, which is when the transaction began.
ASK: Final = text("SELECT clock_timestamp()")


class Clock(Protocol):
    """What servers that work together agree on the time by."""

    def utc_now(self) -> datetime:
        """Aware."""
        ...


class SystemClock:
    """The machine's own, for a database that nobody else has."""

    def utc_now(self) -> datetime:
        return datetime.now(UTC)


@dataclass(slots=True)
class DatabaseClock:
    """PostgreSQL's time, asked for now and then and counted on in between.

    elapsed_s: counts on; the machine's clock would not do, which may be set at any moment. Belongs to one event loop.
    """

    database: Database
    elapsed_s: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _known: datetime | None = None
    _known_at_s: float = 0.0

    def utc_now(self) -> datetime:
        if self._known is None:
            raise ValueError("a clock is read before it was set")
        return self._known + timedelta(seconds=self.elapsed_s() - self._known_at_s)

    async def set(self) -> None:
        """Ask the database. Raises StorageError, after which the clock goes on as before."""
        answers = [await self._ask() for _ in range(QUESTIONS)]
        _, self._known_at_s, self._known = min(answers)

    async def keep_set(self) -> bool:
        """Wait until it is time, and set it: a step to be repeated in the background. Raises StorageError."""
        await self.sleep(SET_EVERY_S)
        await self.set()
        return True

    async def _ask(self) -> tuple[float, float, datetime]:
        """How long the answer took in seconds, the middle of that by `elapsed_s`, and what the database shows."""
        asked_s = self.elapsed_s()
        shown = await self.database.read(_read_time)
        answered_s = self.elapsed_s()
        return answered_s - asked_s, (asked_s + answered_s) / 2, shown


def seconds_since_boot() -> float:
    """Goes on while the machine sleeps, and is never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def open_clock(database: Database, *, is_shared: bool) -> Clock:
    """is_shared: whether other servers may use the database. Raises StorageError."""
    if not is_shared:
        return SystemClock()
    clock = DatabaseClock(database, seconds_since_boot)
    await clock.set()
    return clock


def _read_time(connection: Connection) -> datetime:
    shown: datetime = connection.execute(ASK).scalar_one()
    return shown.astimezone(UTC)
