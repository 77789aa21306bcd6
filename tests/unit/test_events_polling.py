from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from orchestrator.errors import StorageError
from orchestrator.events.memory import MemoryEventBus
from orchestrator.events.polling import EventPoll
from orchestrator.scheduling.local import Bell
from tests.support.counted_events import CountedEvents

LONG_S = 20.0


@dataclass
class Polled:
    """A poll that looks all the time where somebody follows, and practically never where nobody does."""

    events: CountedEvents = field(default_factory=CountedEvents)
    bus: MemoryEventBus = field(default_factory=lambda: MemoryEventBus(hears_all=False))
    work: Bell = field(default_factory=Bell)
    away: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.away.set()
        self.poll = EventPoll(
            events=self.events, bus=self.bus, work=self.work, away=self.away, poll_s=0.001, idle_poll_s=LONG_S
        )


async def settle() -> None:
    """Let everything happen that needs no time to pass."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_another_process_wrote_rings_subscribers_and_the_bell_once() -> None:
    polled = Polled()
    async with polled.bus.subscribe("job_1") as subscription, polled.work.listening() as rung:
        await polled.poll.step()
        assert (await subscription.next(timeout_s=0)).rang
        rung.clear()
        await polled.poll.step()
        assert not (await subscription.next(timeout_s=0)).rang
        assert not rung.is_set()
        polled.events.write()
        await polled.poll.step()
        assert (await subscription.next(timeout_s=0)).rang
        assert rung.is_set()


async def test_an_event_that_was_deleted_is_news_too() -> None:
    polled = Polled()
    polled.events.write()
    async with polled.bus.subscribe("job_1") as subscription:
        await polled.poll.step()
        await subscription.next(timeout_s=0)
        polled.events.delete()
        await polled.poll.step()
        assert (await subscription.next(timeout_s=0)).rang


async def test_nobody_looks_while_messages_come_and_the_first_look_afterwards_rings() -> None:
    polled = Polled()
    async with polled.bus.subscribe("job_1") as subscription:
        await polled.poll.step()
        await subscription.next(timeout_s=0)
        polled.away.clear()
        step = asyncio.ensure_future(polled.poll.step())
        await settle()
        assert polled.events.looks == 1
        polled.away.set()
        await step
        assert polled.events.looks == 2
        # Nothing is new, but something may have been missed before messages were known not to come.
        assert (await subscription.next(timeout_s=0)).rang


async def test_who_begins_to_follow_does_not_wait_for_the_slow_look_of_an_idle_process() -> None:
    polled = Polled()
    step = asyncio.ensure_future(polled.poll.step())
    await settle()
    assert not step.done()
    async with polled.bus.subscribe("job_1"), asyncio.timeout(LONG_S / 2):
        await step


async def test_a_database_that_is_away_is_the_loops_to_tell() -> None:
    polled = Polled(events=CountedEvents(outage=StorageError("it does not answer")))
    with pytest.raises(StorageError):
        await polled.poll.step()
