from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.core.progress import ProgressShare
from orchestrator.core.records import Failure
from orchestrator.core.states import JobState
from orchestrator.errors import JobNotFoundError
from orchestrator.events.memory import MemoryEventBus
from orchestrator.following import StreamEvent
from orchestrator.testing.fake_reader import GeneratedVideo
from tests.support.following import following
from tests.support.process import Clock, Process


async def listen(stream: AsyncIterator[StreamEvent | None]) -> list[StreamEvent]:
    return [event async for event in stream if event is not None]


def durable(events: list[StreamEvent]) -> list[tuple[str, int]]:
    return [(event.kind, event.id) for event in events if event.id is not None]


async def test_a_live_and_a_late_follower_see_every_event_once_and_in_order() -> None:
    process = Process()
    job = (await process.submit()).job
    live = asyncio.create_task(listen(process.following.job(job.id)))
    await process.work_until_idle()
    seen_live, seen_late = durable(await live), durable(await process.events(job.id))
    assert seen_live == seen_late
    assert [kind for kind, _ in seen_late] == ["state", "state", *["segment"] * 6, "state", "done"]
    assert [number for _, number in seen_late] == sorted({number for _, number in seen_late})


async def test_replay_begins_after_the_last_id_seen() -> None:
    process = Process()
    job = (await process.submit()).job
    await process.work_until_idle()
    everything = durable(await process.events(job.id))
    for cut in range(len(everything) - 1):
        assert durable(await process.events(job.id, last_id=everything[cut][1])) == everything[cut + 1 :]


async def test_a_client_that_saw_the_end_has_nothing_more_to_come() -> None:
    process = Process()
    job = (await process.submit()).job
    assert not await process.following.is_over(job.id, last_id=10**6)
    await process.work_until_idle()
    last_id = durable(await process.events(job.id))[-1][1]
    assert not await process.following.is_over(job.id, last_id=last_id - 1)
    assert await process.following.is_over(job.id, last_id=last_id)


async def test_a_follower_of_a_retried_job_is_told_of_both_attempts_and_of_one_end() -> None:
    process = Process()
    job = (await process.submit()).job
    await process.plan()
    await process.worker.work_once()
    await process.jobs.cancel(job.id)
    seen = durable(await process.events(job.id))
    await process.jobs.retry(job.id)
    await process.work_until_idle()
    everything = durable(await process.events(job.id))
    assert [kind for kind, _ in everything].count("done") == 1
    assert everything[: len(seen) - 1] == seen[:-1]
    rest = durable(await process.events(job.id, last_id=seen[-1][1]))
    assert rest == everything[len(seen) - 1 :]
    assert [number for _, number in everything] == sorted({number for _, number in everything})


async def test_progress_ends_at_exactly_100_percent_before_done() -> None:
    process = Process()
    job = (await process.submit()).job
    await process.work_until_idle()
    events = await process.events(job.id)
    assert [event.kind for event in events[-2:]] == ["progress", "done"]
    assert events[-2].body["percent"] == 100.0


async def test_a_job_that_joins_a_finished_run_sees_its_segments_once() -> None:
    process = Process()
    video_id = await process.upload()
    await process.submit(video_id)
    await process.work_until_idle()
    second = (await process.submit(video_id)).job
    kinds = [kind for kind, _ in durable(await process.events(second.id))]
    assert kinds.count("segment") == 6
    assert kinds[-1] == "done"


async def test_segments_of_a_shared_run_name_the_job_that_is_followed() -> None:
    process = Process()
    video_id = await process.upload()
    ids = [(await process.submit(video_id)).job.id for _ in range(2)]
    await process.work_until_idle()
    for job_id in ids:
        assert {event.body["job_id"] for event in await process.events(job_id)} == {job_id}


async def test_boxes_come_with_segments_when_asked_for_under_the_jobs_own_view() -> None:
    process = Process()
    job = (await process.submit(min_confidence=0.8, classes=("circle",))).job
    await process.work_until_idle()
    stream = process.following.job(job.id, with_boxes=True)
    segments = [event.body for event in await listen(stream) if event.kind == "segment"]
    boxes = [box for body in segments for box in body["detections"]]  # type: ignore[union-attr]
    assert len(boxes) == 34  # frames 0, 3, ..., 99 hold a circle; one box of each is over 0.8
    assert {box["class_name"] for box in boxes} == {"circle"}  # type: ignore[call-overload, index]


async def test_a_job_that_ended_early_on_a_shared_run_is_over_for_good() -> None:
    process = Process()
    video_id = await process.upload()
    first, _ = (await process.submit(video_id)).job, (await process.submit(video_id)).job
    await process.plan()
    await process.worker.work_once()
    await process.jobs.cancel(first.id)
    done_id = durable(await process.events(first.id))[-1][1]
    await process.work_until_idle()
    assert await process.following.is_over(first.id, last_id=done_id)
    assert await process.events(first.id, last_id=done_id) == []
    assert durable(await process.events(first.id))[-1] == ("done", done_id)


async def test_a_long_replay_does_not_wait_between_its_pages() -> None:
    process = Process(video=GeneratedVideo(frame_count=5000))
    job = (await process.submit()).job
    await process.work_until_idle()
    async with asyncio.timeout(10):
        kinds = [kind for kind, _ in durable(await process.events(job.id))]
    assert kinds.count("segment") == 251
    assert kinds[-1] == "done"


async def test_stopping_ends_open_streams_and_new_ones() -> None:
    process = Process()
    job = (await process.submit()).job
    open_streams = [
        asyncio.create_task(listen(process.following.job(job.id))),
        asyncio.create_task(listen(process.following.all_jobs())),
    ]
    await asyncio.sleep(0)
    process.following.stop()
    async with asyncio.timeout(5):
        await asyncio.gather(*open_streams)
        await listen(process.following.job(job.id))


async def test_deleting_a_job_ends_its_streams() -> None:
    process = Process()
    job = (await process.submit()).job
    stream = asyncio.create_task(listen(process.following.job(job.id)))
    for _ in range(10):
        await asyncio.sleep(0)
    await process.jobs.remove(job.id)
    async with asyncio.timeout(5):
        assert durable(await stream)[-1][0] == "state"


async def test_all_jobs_states_come_on_one_stream() -> None:
    process = Process()
    stream = process.following.all_jobs(last_id=0)
    first, second = (await process.submit()).job, (await process.submit(await process.upload(b"other"))).job
    told = [await anext(stream), await anext(stream)]
    assert [event.body["job_id"] for event in told if event] == [first.id, second.id]


async def test_an_unknown_job_cannot_be_followed() -> None:
    with pytest.raises(JobNotFoundError):
        await listen(Process().following.job("job_unknown"))


def share_of(run_id: str, frames_open: int, *, worker_id: str = "another", committed: int = 0) -> ProgressShare:
    return ProgressShare(
        worker_id=worker_id,
        run_id=run_id,
        frames_total=100,
        frames_committed=committed,
        frames_open=frames_open,
        fps=10.0,
        video_s_a_frame=0.04,
        told_s=0.0,
    )


async def test_a_follower_is_never_told_of_fewer_frames_though_a_worker_loses_its_own() -> None:
    process = Process(clock=Clock(ticks_a_read=0.1))
    job = (await process.submit()).job
    await process.plan()
    async with following(process.following.job(job.id)) as follower:
        await follower.until(lambda told: told.progress == [0])
        await process.bus.publish_progress(share_of(job.run_id, 30))
        await follower.until(lambda told: told.progress == [0, 30])
        await process.bus.publish_progress(share_of(job.run_id, 0))
        await process.bus.publish_progress(share_of(job.run_id, 10, worker_id="a third"))
        await follower.until(lambda told: len(told.progress) == 3)
        await process.bus.publish_progress(share_of(job.run_id, 40))
        await follower.until(lambda told: len(told.progress) == 4)
    assert follower.progress == [0, 30, 30, 50]
    assert follower.of_kind("progress")[2].body["eta_s"] == 70 / 20


async def test_what_was_told_last_is_not_told_again() -> None:
    process = Process(clock=Clock(ticks_a_read=0.1))
    job = (await process.submit()).job
    await process.plan()
    async with following(process.following.job(job.id)) as follower:
        await follower.until(lambda told: told.progress == [0])
        for frames in (30, 30, 30, 31):
            await process.bus.publish_progress(share_of(job.run_id, frames))
            await follower.until(lambda told, frames=frames: told.progress[-1:] == [frames])
        assert follower.progress == [0, 30, 31]


async def test_the_next_attempt_begins_where_it_is() -> None:
    process = Process(clock=Clock(ticks_a_read=0.1))
    job = (await process.submit()).job
    await process.plan()
    async with following(process.following.all_jobs(last_id=0)) as follower:
        await follower.until(lambda told: len(told.of_kind("state")) == 2)
        await process.bus.publish_progress(share_of(job.run_id, 30))
        await follower.until(lambda told: told.progress == [30])
        await process.jobs.cancel(job.id)
        await process.jobs.retry(job.id)
        await process.bus.publish_progress(share_of(job.run_id, 5))
        await follower.until(lambda told: told.progress == [30, 5])


async def test_a_stream_ends_where_its_job_goes_on_with_another_run() -> None:
    process = Process()
    snapshot = await process.submit()
    await process.plan()
    stream = process.following.job(snapshot.job.id)
    assert [(await anext(stream)).body["state"] for _ in range(2)] == ["queued", "running"]
    await process.upkeep.fail(snapshot.run, Failure(code="model_changed", message="another network by now"))
    # Before the stream could look.
    retried = (await process.jobs.retry(snapshot.job.id)).job
    assert retried.run_id != snapshot.job.run_id
    async with asyncio.timeout(5):
        assert "done" not in [event.kind for event in await listen(stream)]
    async with following(process.following.job(retried.id)) as follower:
        await process.work_until_idle()
        await follower.until(lambda told: told.is_over)
    assert follower.told[-1].body["state"] == JobState.SUCCEEDED


async def test_where_other_processes_are_not_heard_progress_moves_with_every_segment() -> None:
    bus = MemoryEventBus(hears_all=False)
    here = Process(bus=bus, clock=Clock(ticks_a_read=0.1))
    elsewhere = Process(stores=here.stores)
    job = (await here.submit()).job
    await here.plan()
    async with (
        following(here.following.job(job.id)) as of_job,
        following(here.following.all_jobs(last_id=0)) as of_all,
    ):
        for frames_done in (4, 24, 44):
            await elsewhere.worker.work_once()
            # As the look into the database does, which alone tells of it.
            bus.ring_all()
            for follower in (of_job, of_all):
                await follower.until(lambda told, done=frames_done: told.progress[-1:] == [done])


async def test_rings_without_news_do_not_keep_a_quiet_stream_from_being_pinged() -> None:
    process = Process()
    bus = process.bus
    assert isinstance(bus, MemoryEventBus)
    job = (await process.submit()).job
    for stream in (process.following.job(job.id), process.following.all_jobs(last_id=0)):
        assert (await anext(stream)).kind == "state"
        began_s = process.clock.seconds
        ping = asyncio.ensure_future(anext(stream))
        while not ping.done():
            process.clock.seconds += 1.0
            bus.ring_all()
            for _ in range(20):
                await asyncio.sleep(0)
        assert await ping is None
        assert process.clock.seconds - began_s < 17
        await stream.aclose()
