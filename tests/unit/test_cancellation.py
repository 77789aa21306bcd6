from __future__ import annotations

import asyncio

import pytest

from orchestrator.cancellation import cancel_until_done, is_cancelled, is_done_within


async def fail() -> None:
    raise ValueError("failed")


async def test_a_cancellation_that_a_failing_group_swallows_is_sent_again() -> None:
    is_ending, may_end = asyncio.Event(), asyncio.Event()
    rounds = 0

    async def end_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_ending.set()
            await may_end.wait()

    async def work() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(end_slowly())
                    group.create_task(fail() if rounds == 1 else asyncio.Event().wait())
            except* ValueError:
                pass

    task = asyncio.create_task(work())
    await is_ending.wait()
    asyncio.get_running_loop().call_soon(may_end.set)
    assert await cancel_until_done([task], again_s=0.01) == set()
    assert task.cancelled()


async def test_who_does_not_end_in_time_is_told() -> None:
    may_end = asyncio.Event()

    async def work() -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    assert await cancel_until_done([task], timeout_s=0.02, again_s=0.005) == {task}
    may_end.set()
    assert await cancel_until_done([task]) == set()


async def test_a_loop_ends_though_what_it_calls_swallows_its_cancellation() -> None:
    rounds = 0

    async def swallow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async def work() -> None:
        nonlocal rounds
        while not is_cancelled():
            rounds += 1
            await swallow()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert rounds == 1


async def test_a_cancelled_task_gives_up_what_takes_too_long_and_goes_on() -> None:
    told: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append(await is_done_within(0.01, asyncio.sleep(60)))
            told.append(await is_done_within(60, asyncio.sleep(0)))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert told == [False, True]
    assert task.cancelled()


async def test_what_is_done_in_time_raises_what_it_raises() -> None:
    with pytest.raises(ValueError, match="failed"):
        await is_done_within(60, fail())
