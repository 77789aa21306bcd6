from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from orchestrator.scheduling.local import Bell, run_loops
from orchestrator.scheduling.shift import Shift

LONG_S = 60.0


@dataclass
class Taker:
    """Takes what is put before it, one piece a step; a step waits until it may go on."""

    work: deque[str] = field(default_factory=deque)
    done: list[str] = field(default_factory=list)
    has_looked: asyncio.Event = field(default_factory=asyncio.Event)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def step(self) -> bool:
        self.has_looked.set()
        if not self.work:
            return False
        await self.may_go_on.wait()
        self.done.append(self.work.popleft())
        return True


@asynccontextmanager
async def at_work(*takers: Taker) -> AsyncIterator[Shift]:
    bell = Bell()
    shift = Shift(bell)
    loops = [shift.taker(f"taker-{number}", taker.step) for number, taker in enumerate(takers)]
    async with run_loops(loops, bell, stop_timeout_s=LONG_S, look_again_s=LONG_S):
        yield shift


async def test_a_shift_ends_when_everything_is_done() -> None:
    taker = Taker()
    async with at_work(taker) as shift:
        await shift.work_until_idle()
        taker.work.extend("abc")
        taker.may_go_on.set()
        await shift.work_until_idle()
        assert taker.done == ["a", "b", "c"]


async def test_it_lasts_as_long_as_one_of_several_is_at_work() -> None:
    idle, busy = Taker(), Taker(deque("a"))
    async with at_work(idle, busy) as shift:
        end = asyncio.ensure_future(shift.work_until_idle())
        done, _ = await asyncio.wait({end}, timeout=0.01)
        assert not done
        busy.may_go_on.set()
        await end
        assert busy.done == ["a"]


async def test_what_was_looked_for_before_the_ring_does_not_count() -> None:
    taker = Taker(deque("a"))
    async with at_work(taker) as shift:
        # Its first look found "a", so it is in the middle of a step while the ring comes.
        await taker.has_looked.wait()
        taker.work.append("b")
        end = asyncio.ensure_future(shift.work_until_idle())
        taker.may_go_on.set()
        await end
        assert taker.done == ["a", "b"]


async def test_two_may_wait_for_one_shift() -> None:
    taker = Taker(deque("a"))
    taker.may_go_on.set()
    async with at_work(taker) as shift:
        await asyncio.gather(shift.work_until_idle(), shift.work_until_idle())
        assert taker.done == ["a"]
