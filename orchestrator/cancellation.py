"""Cancelling tasks that may not notice at first, and limits for what a cancelled task still does."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, Final

AGAIN_S: Final = 0.5


def is_cancelled() -> bool:
    """Whether the running task was asked to end, for loops that call what may swallow that (redis-py does).

    Only where the task has no TaskGroup of its own: Python 3.11 leaves the count above zero after a child's failure.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def cancel_until_done(
    tasks: Collection[asyncio.Task[Any]], *, timeout_s: float = float("inf"), again_s: float = AGAIN_S
) -> set[asyncio.Task[Any]]:
    """Cancel the tasks again and again until they have ended; those that have not after `timeout_s`.

    Before Python 3.13 a TaskGroup that is cancelled while it ends of a child's failure raises that failure alone, and
    whoever deals with it by `except*` goes on.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    waiting = set(tasks)
    while waiting and (left_s := end_s - loop.time()) > 0:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=min(left_s, again_s))
    return waiting


async def is_done_within(timeout_s: float, work: Coroutine[Any, Any, object]) -> bool:
    """Whether `work` came to its end; what did not is cancelled. Raises what it raises.

    For the last things that a cancelled task does: before Python 3.11.4 `asyncio.timeout` takes its own cancellation
    for the task's there, and raises CancelledError.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=timeout_s)
    finally:
        is_done = task.done()
        await cancel_until_done([task])
    if is_done:
        task.result()
    elif not task.cancelled():
        # What it raised on its way out belongs to nobody any more.
        task.exception()
    return is_done
