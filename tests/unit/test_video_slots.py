"""Slots have one owner at a time, are lent in turn, and come back exactly once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from orchestrator.errors import SharedMemoryFullError
from orchestrator.telemetry import Metrics
from orchestrator.video.slots import SHARED_MEMORY, SlotPool, open_slots, remove_stale_regions

SLOT_BYTES = 4096


def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


class SlotsInUse(RuleBasedStateMachine):
    """Any order of leasing, cancelling and giving back keeps every slot with exactly one owner."""

    COUNT = 3

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.context = open_slots(count=self.COUNT, slot_bytes=SLOT_BYTES, metrics=metrics())
        self.pool = self.context.__enter__()
        self.lent: list[int] = []
        self.waiting: list[asyncio.Task[int]] = []

    def settle(self) -> None:
        """Let tasks run, and collect the slots of those that got one, which must be those that waited longest."""
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        served = [task.done() for task in self.waiting]
        assert served == sorted(served, reverse=True)
        self.lent += [task.result() for task in self.waiting if task.done()]
        self.waiting = [task for task in self.waiting if not task.done()]

    @rule()
    def lease(self) -> None:
        self.waiting.append(self.loop.create_task(self.pool.lease()))
        self.settle()

    @rule()
    def try_lease(self) -> None:
        slot = self.pool.try_lease()
        assert (slot is None) == (len(self.lent) == self.COUNT)
        if slot is not None:
            self.lent.append(slot)

    @precondition(lambda self: self.lent)
    @rule()
    def give_back(self) -> None:
        self.pool.give_back(self.lent.pop(0))
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule()
    def cancel_one_that_waits(self) -> None:
        self.waiting.pop(0).cancel()
        self.settle()

    @precondition(lambda self: self.lent and self.waiting)
    @rule()
    def cancel_one_that_was_just_served(self) -> None:
        # The slot is on its way to the task, which is cancelled before it runs again: the next one gets it.
        self.pool.give_back(self.lent.pop(0))
        self.waiting.pop(0).cancel()
        self.settle()

    @invariant()
    def every_slot_has_one_owner(self) -> None:
        assert len(set(self.lent)) == len(self.lent)
        assert len(self.lent) + self.pool.free_count == self.COUNT
        assert not (self.waiting and self.pool.free_count)

    def teardown(self) -> None:
        for task in self.waiting:
            task.cancel()
        if self.waiting:
            self.loop.run_until_complete(asyncio.wait(self.waiting))
        self.loop.close()
        self.context.__exit__(None, None, None)


TestSlotsInUse = SlotsInUse.TestCase
TestSlotsInUse.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("slot", [0, 1, 7, -1])
def test_giving_back_what_is_not_lent_is_refused(slot: int) -> None:
    with open_slots(count=2, slot_bytes=SLOT_BYTES, metrics=metrics()) as pool:
        taken = pool.try_lease()
        assert taken == 0
        pool.give_back(taken)
        with pytest.raises(ValueError, match="not lent"):
            pool.give_back(slot)


def test_views_of_different_slots_share_no_byte() -> None:
    with open_slots(count=3, slot_bytes=100, metrics=metrics()) as pool:
        views = [pool.view(slot, (pool.slot_bytes,)) for slot in range(3)]
        for number, view in enumerate(views):
            view[:] = number
        assert [set(view.tolist()) for view in views] == [{0}, {1}, {2}]
        assert [pool.offset(slot) for slot in range(3)] == [0, pool.slot_bytes, 2 * pool.slot_bytes]


@pytest.mark.parametrize(("slot", "shape"), [(0, (SLOT_BYTES + 1,)), (2, (1,)), (-1, (1,)), (0, (0,))])
def test_a_view_outside_its_slot_is_refused(slot: int, shape: tuple[int, ...]) -> None:
    with open_slots(count=2, slot_bytes=SLOT_BYTES, metrics=metrics()) as pool, pytest.raises(ValueError, match="fit"):
        pool.view(slot, shape)


def test_other_programs_see_the_region_under_its_key() -> None:
    with open_slots(count=1, slot_bytes=SLOT_BYTES, metrics=metrics()) as pool:
        pool.view(0, (4,))[:] = [1, 2, 3, 4]
        assert pool.key is not None
        path = region_path(pool)
        assert path.read_bytes()[:4] == bytes([1, 2, 3, 4])
        assert path.stat().st_size == pool.byte_size
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_a_region_that_has_no_room_is_refused_before_anything_is_written() -> None:
    space = os.statvfs(SHARED_MEMORY)
    too_many = space.f_blocks * space.f_frsize // SLOT_BYTES + 2
    before = set(SHARED_MEMORY.iterdir())
    with (
        pytest.raises(SharedMemoryFullError, match="shm_size"),
        open_slots(count=too_many, slot_bytes=SLOT_BYTES, metrics=metrics()),
    ):
        raise AssertionError("slots were made that cannot be filled")
    assert set(SHARED_MEMORY.iterdir()) <= before


async def test_who_gives_up_waiting_at_the_moment_a_slot_comes_back_just_gives_up() -> None:
    with open_slots(count=1, slot_bytes=SLOT_BYTES, metrics=metrics()) as pool:
        slot = await pool.lease()
        waiting = asyncio.create_task(pool.lease())
        await asyncio.sleep(0)
        waiting.cancel()
        pool.give_back(slot)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pool.free_count == 1


def test_regions_of_the_dead_are_removed_and_those_of_the_living_stay() -> None:
    # By its name it is this very process's: in a container every program gets the pid of the program before.
    stale = SHARED_MEMORY / f"trireel_{os.getpid()}_00ff"
    foreign = SHARED_MEMORY / f"other_{os.getpid()}_00ff"
    stale.touch()
    foreign.touch()
    try:
        with open_slots(count=1, slot_bytes=SLOT_BYTES, metrics=metrics()) as pool:
            assert not stale.exists()
            assert foreign.exists()
            remove_stale_regions()
            assert region_path(pool).exists()
    finally:
        foreign.unlink()


def test_free_slots_are_a_metric() -> None:
    counted = metrics()
    with open_slots(count=2, slot_bytes=SLOT_BYTES, metrics=counted) as pool:
        pool.try_lease()
        assert counted.registry.get_sample_value("trireel_slots_free") == 1


def test_views_are_writable_bytes() -> None:
    with open_slots(count=1, slot_bytes=SLOT_BYTES, metrics=metrics()) as pool:
        view = pool.view(0, (2, 3, 3))
        assert view.dtype == np.uint8
        assert view.flags.writeable


def region_path(pool: SlotPool) -> Path:
    assert pool.key is not None
    return SHARED_MEMORY / pool.key.lstrip("/")
