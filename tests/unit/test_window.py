from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.window import FrameWindow


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_request_waits_until_its_frames_fit() -> None:
    window = FrameWindow(8)
    entered: list[int] = []

    async def enter(frames: int, leave: asyncio.Event) -> None:
        async with window.hold(frames):
            entered.append(frames)
            await leave.wait()

    leave = [asyncio.Event() for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for frames, event in zip((5, 4, 2), leave, strict=True):
            group.create_task(enter(frames, event))
        await settle()
        # 2 would fit, but 4 came first.
        assert entered == [5]
        leave[0].set()
        await settle()
        assert entered == [5, 4, 2]
        leave[1].set()
        leave[2].set()
    assert window.held == 0


async def test_a_request_larger_than_the_window_goes_alone() -> None:
    window = FrameWindow(4)
    async with window.hold(16):
        assert window.held == 16
    assert window.held == 0


async def test_a_cancelled_waiter_leaves_no_hole() -> None:
    window = FrameWindow(4)

    async def enter(frames: int) -> None:
        async with window.hold(frames):
            return

    async with window.hold(4):
        first, second = asyncio.create_task(enter(4)), asyncio.create_task(enter(1))
        await settle()
        first.cancel()
        await settle()
        assert not second.done()
    await second
    assert window.held == 0


async def test_a_waiter_cancelled_as_its_turn_comes_leaves_no_hole() -> None:
    window = FrameWindow(4)

    async def enter() -> None:
        async with window.hold(4):
            return

    async with window.hold(4):
        waiter = asyncio.create_task(enter())
        await settle()
        waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert waiter.cancelled()
    assert window.held == 0


async def test_a_wider_window_lets_waiters_in() -> None:
    window = FrameWindow(1)

    async def enter() -> None:
        async with window.hold(1):
            return

    async with window.hold(1):
        waiter = asyncio.create_task(enter())
        await settle()
        assert not waiter.done()
        window.widen(2)
        await waiter


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=25), capacity=st.integers(1, 16))
def test_the_window_never_overflows_and_everyone_gets_through(sizes: list[int], capacity: int) -> None:
    async def scenario() -> None:
        window = FrameWindow(capacity)
        through = 0

        async def enter(frames: int) -> None:
            nonlocal through
            async with window.hold(frames):
                assert window.held <= max(capacity, frames)
                await asyncio.sleep(0)
            through += 1

        async with asyncio.TaskGroup() as group:
            for frames in sizes:
                group.create_task(enter(frames))
        assert (through, window.held) == (len(sizes), 0)

    asyncio.run(scenario())
