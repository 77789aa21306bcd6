"""Batches side by side, and a suspect alone."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.inference.door import Door


class Visitor:
    """Stays inside until told to leave."""

    def __init__(self, door: Door, *, alone: bool = False) -> None:
        self.is_inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._visit(door, alone))

    async def _visit(self, door: Door, alone: bool) -> None:
        async with door.enter(alone=alone):
            self.is_inside = True
            try:
                await self._leave.wait()
            finally:
                self.is_inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settled() -> None:
    """Everybody has gone as far as they get: nothing here waits for time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_batches_are_inside_side_by_side() -> None:
    door = Door()
    visitors = [Visitor(door) for _ in range(3)]
    await settled()
    assert [visitor.is_inside for visitor in visitors] == [True] * 3
    assert not door.is_closed
    for visitor in visitors:
        await visitor.leave()


async def test_a_suspect_waits_for_those_inside_and_keeps_others_out() -> None:
    door = Door()
    first = Visitor(door)
    await settled()
    suspect = Visitor(door, alone=True)
    await settled()
    late = Visitor(door)
    await settled()
    assert (first.is_inside, suspect.is_inside, late.is_inside, door.is_closed) == (True, False, False, True)
    await first.leave()
    await settled()
    assert (suspect.is_inside, late.is_inside) == (True, False)
    await suspect.leave()
    await settled()
    assert (late.is_inside, door.is_closed) == (True, False)
    await late.leave()


async def test_two_suspects_are_not_inside_together() -> None:
    door = Door()
    suspects = [Visitor(door, alone=True) for _ in range(2)]
    await settled()
    assert [suspect.is_inside for suspect in suspects] == [True, False]
    await suspects[0].leave()
    await settled()
    assert suspects[1].is_inside
    await suspects[1].leave()
    assert not door.is_closed


@pytest.mark.parametrize("is_inside", [True, False])
async def test_a_suspect_that_is_cancelled_opens_the_door(is_inside: bool) -> None:
    door = Door()
    first = None if is_inside else Visitor(door)
    await settled()
    suspect = Visitor(door, alone=True)
    await settled()
    assert suspect.is_inside is is_inside
    suspect.task.cancel()
    late = Visitor(door)
    await settled()
    assert late.is_inside
    for visitor in filter(None, (first, late)):
        await visitor.leave()
