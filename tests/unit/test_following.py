from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.errors import JobNotFoundError
from orchestrator.following import StreamEvent
from orchestrator.testing.fake_reader import GeneratedVideo
from tests.support.process import Process


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
