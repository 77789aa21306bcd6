from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from orchestrator.scheduling.local import Bell, Loop, run_loops


async def test_a_loop_that_swallows_a_cancellation_is_cancelled_again() -> None:
    cancelled = 0

    async def step() -> bool:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            if cancelled > 1:
                raise
        return True

    async with run_loops([Loop("stubborn", step)], Bell(), stop_timeout_s=0.01):
        await asyncio.sleep(0)
    assert cancelled == 2


async def test_a_loop_that_is_late_to_end_is_told_of_once_and_waited_for() -> None:
    may_end, has_ended = asyncio.Event(), False

    async def hand_back() -> None:
        nonlocal has_ended
        await may_end.wait()
        has_ended = True

    async def step() -> bool:
        handing_back = asyncio.create_task(hand_back())
        try:
            await asyncio.Event().wait()
        finally:
            while not handing_back.done():
                try:
                    await asyncio.shield(handing_back)
                except asyncio.CancelledError:
                    continue
        return True

    with capture_logs() as logs:
        async with run_loops([Loop("late", step)], Bell(), stop_timeout_s=0.01):
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.1, may_end.set)
    assert has_ended
    assert [(entry["event"], entry["loops"]) for entry in logs] == [("loops do not stop", ["late"])]
