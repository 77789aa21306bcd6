from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from orchestrator.core.progress import MOST_RUNS, SHARE_LIFETIME_S, ProgressShare
from orchestrator.events.news import MOST_BYTES, MOST_IDS, News, from_wire, to_wire
from orchestrator.events.outbox import PROGRESS_INTERVAL_S, Outbox
from tests.support.process import Clock


def share_of(run_id: str, frames_open: int = 0) -> ProgressShare:
    return ProgressShare(
        worker_id="w" * 32,
        run_id=run_id,
        frames_total=10**6,
        frames_committed=0,
        frames_open=frames_open,
        fps=1.5,
        video_s_a_frame=1 / 29.97,
        told_s=1.5,
    )


def outbox_of(clock: Clock) -> Outbox:
    return Outbox(origin="here", monotonic_s=clock.monotonic_s)


async def sent(outbox: Outbox) -> News:
    async with outbox.sending() as news:
        return news


async def due(outbox: Outbox) -> News | None:
    """What is sent without waiting."""
    sending = asyncio.ensure_future(sent(outbox))
    for _ in range(10):
        await asyncio.sleep(0)
    sending.cancel()
    [news] = await asyncio.gather(sending, return_exceptions=True)
    return news if isinstance(news, News) else None


async def test_rings_are_sent_together_and_once() -> None:
    outbox = outbox_of(Clock())
    outbox.ring(["job_1", "run_1"])
    outbox.ring(["job_1", "job_2"])
    news = await sent(outbox)
    assert (sorted(news.ids), news.rings_all, news.shares) == (["job_1", "job_2", "run_1"], False, ())
    assert await due(outbox) is None


async def test_who_waits_for_something_to_send_is_woken() -> None:
    outbox = outbox_of(Clock())
    sending = asyncio.ensure_future(sent(outbox))
    await asyncio.sleep(0)
    outbox.ring(["job_1"])
    assert (await sending).ids == ("job_1",)


async def test_of_many_rings_everything_becomes_one() -> None:
    outbox = outbox_of(Clock())
    for number in range(10 * MOST_IDS):
        outbox.ring([f"job_{number}"])
    news = await sent(outbox)
    assert news.rings_all
    assert len(news.ids) <= MOST_IDS


async def test_the_newest_share_of_each_run_is_sent() -> None:
    outbox = outbox_of(Clock())
    for frames in range(100):
        outbox.add_share(share_of("run_1", frames))
    outbox.add_share(share_of("run_2", 7))
    assert (await sent(outbox)).shares == (share_of("run_1", 99), share_of("run_2", 7))


async def test_progress_is_sent_five_times_a_second_at_most() -> None:
    clock = Clock()
    outbox = outbox_of(clock)
    sent_shares: list[ProgressShare] = []
    for tick in range(1000):
        clock.seconds = tick / 1000
        outbox.add_share(share_of("run_1", tick))
        if news := await due(outbox):
            sent_shares.extend(news.shares)
    ticks = [share.frames_open for share in sent_shares]
    assert len(ticks) == 5
    assert all(later - earlier >= 1000 * PROGRESS_INTERVAL_S for earlier, later in pairwise(ticks))


async def test_what_was_held_back_is_sent_when_its_time_has_come() -> None:
    clock = Clock(seconds=100.0, ticks_a_read=PROGRESS_INTERVAL_S / 10)
    outbox = outbox_of(clock)
    outbox.add_share(share_of("run_1", 1))
    await sent(outbox)
    outbox.add_share(share_of("run_1", 2))
    assert (await sent(outbox)).shares == (share_of("run_1", 2),)


async def test_a_ring_takes_the_progress_of_its_run_along_and_no_other() -> None:
    clock = Clock()
    outbox = outbox_of(clock)
    outbox.add_share(share_of("run_1"))
    await sent(outbox)
    outbox.add_share(share_of("run_1", 64))
    outbox.add_share(share_of("run_2", 64))
    assert await due(outbox) is None
    outbox.ring(["run_1"])
    assert await sent(outbox) == News(origin="here", ids=("run_1",), shares=(share_of("run_1", 64),))
    clock.seconds += PROGRESS_INTERVAL_S
    assert (await sent(outbox)).shares == (share_of("run_2", 64),)


async def test_what_could_not_be_sent_is_kept_but_for_what_is_newer_by_now() -> None:
    clock = Clock()
    outbox = outbox_of(clock)
    outbox.ring(["job_1"])
    outbox.add_share(share_of("run_1", 1))
    outbox.add_share(share_of("run_2", 1))

    async def fail_to_send() -> None:
        async with outbox.sending():
            outbox.ring(["job_2"])
            outbox.add_share(share_of("run_1", 2))
            raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await fail_to_send()
    clock.seconds += PROGRESS_INTERVAL_S
    news = await sent(outbox)
    assert sorted(news.ids) == ["job_1", "job_2"]
    assert set(news.shares) == {share_of("run_1", 2), share_of("run_2", 1)}


async def test_progress_that_waited_for_too_long_is_not_sent() -> None:
    clock = Clock()
    outbox = outbox_of(clock)
    outbox.add_share(share_of("run_1"))
    clock.seconds = SHARE_LIFETIME_S + 1
    assert await due(outbox) is None
    async with asyncio.timeout(1):
        await outbox.until_empty()


async def test_however_much_is_told_what_waits_fits_into_one_message() -> None:
    outbox = outbox_of(Clock())
    for number in range(5 * MOST_RUNS):
        outbox.add_share(share_of(f"run_{number:032}", 10**6))
    for number in range(MOST_IDS):
        outbox.ring([f"job_{number:032}"])
    message = to_wire(await sent(outbox))
    assert len(message) < MOST_BYTES
    assert len(from_wire(message).shares) == MOST_RUNS


async def test_emptiness_is_waited_for_until_the_last_was_sent() -> None:
    outbox = outbox_of(Clock())
    outbox.ring(["job_1"])
    emptying = asyncio.ensure_future(outbox.until_empty())
    async with outbox.sending():
        await asyncio.sleep(0)
        assert not emptying.done()
    async with asyncio.timeout(1):
        await emptying
