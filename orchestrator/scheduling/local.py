"""The scheduler of one process: loops that step while there is work and sleep until the bell rings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from orchestrator.cancellation import cancel_until_done
from orchestrator.errors import TrireelError

log = structlog.get_logger()

# A bell may be missed, and time alone makes leases and jobs expire: look again after so long.
LOOK_AGAIN_S: Final = 1.0
# After an unexpected error a loop pauses, so that a lasting cause does not fill the log.
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0

Step = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Loop:
    """step: does one piece of work; False when there was none."""

    name: str
    step: Step


@dataclass(slots=True)
class Bell:
    """Wakes every loop that waits. A ring between two waits is not lost."""

    _rung: set[asyncio.Event] = field(default_factory=set)

    def ring(self) -> None:
        for event in self._rung:
            event.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[asyncio.Event]:
        event = asyncio.Event()
        self._rung.add(event)
        try:
            yield event
        finally:
            self._rung.discard(event)


@asynccontextmanager
async def run_loops(
    loops: Sequence[Loop], bell: Bell, *, stop_timeout_s: float, look_again_s: float = LOOK_AGAIN_S
) -> AsyncIterator[None]:
    """Run the loops until the body ends, then cancel them and wait for what they hand back.

    look_again_s: how long a loop without work sleeps where nobody rings. stop_timeout_s: loops that take longer to end
    are told of and still waited for, since what they hold would be lost; a supervisor has the last word.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_supervise(loop, bell, look_again_s), name=loop.name) for loop in loops]
        try:
            yield
        finally:
            late = await cancel_until_done(tasks, timeout_s=stop_timeout_s)
            if late:
                log.error("loops do not stop", loops=sorted(task.get_name() for task in late))
                await cancel_until_done(late)


async def _supervise(loop: Loop, bell: Bell, look_again_s: float) -> None:
    """Step for ever. The top of a background task: whatever fails is told, and tried again after a pause."""
    pause_s = FIRST_PAUSE_S
    async with bell.listening() as rung:
        while True:
            try:
                rung.clear()
                worked = await loop.step()
                pause_s = FIRST_PAUSE_S
            except TrireelError as exc:
                log.error("background work failed", loop=loop.name, code=exc.code, message=str(exc))
                pause_s = await _pause(pause_s)
            except Exception:
                log.exception("background work failed unexpectedly", loop=loop.name)
                pause_s = await _pause(pause_s)
            else:
                if not worked:
                    await _until(rung, look_again_s)


async def _pause(pause_s: float) -> float:
    """Sleep, and return the next, longer pause."""
    await asyncio.sleep(pause_s)
    return min(2 * pause_s, LONGEST_PAUSE_S)


async def _until(rung: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await rung.wait()
    except TimeoutError:
        return
