"""What an endless stream waits for: news, a time-out, or the server's stop."""

from __future__ import annotations

import asyncio

from orchestrator.ports import Subscription, Wake

NOTHING_NEW = Wake(rang=False, progress={})


async def next_wake(subscription: Subscription, stopping: asyncio.Event, *, timeout_s: float) -> Wake:
    """The next news of a subscription, empty after `timeout_s` and as soon as the server stops."""
    if stopping.is_set():
        return NOTHING_NEW
    stopped = asyncio.ensure_future(stopping.wait())
    woken = asyncio.ensure_future(subscription.next(timeout_s=timeout_s))
    try:
        await asyncio.wait({stopped, woken}, return_when=asyncio.FIRST_COMPLETED)
        return woken.result() if woken.done() else NOTHING_NEW
    finally:
        stopped.cancel()
        woken.cancel()
        await asyncio.gather(stopped, woken, return_exceptions=True)
