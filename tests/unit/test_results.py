from __future__ import annotations

import asyncio

import numpy as np
import pytest

from orchestrator.core.planning import FIRST_SEGMENT_FRAMES
from orchestrator.core.types import Candidates, Sampling
from orchestrator.errors import (
    ClassUnknownError,
    JobNotFoundError,
    ServerStoppingError,
    ThresholdNotStoredError,
    ThresholdOutOfRangeError,
)
from orchestrator.results import DetectionBlock, ViewRequest
from orchestrator.testing.fake_reader import GeneratedVideo
from tests.support.process import Process


async def finished(process: Process, **request: object) -> str:
    job_id = (await process.submit(**request)).job.id
    await process.work_until_idle()
    return job_id


async def blocks_of(process: Process, job_id: str, request: ViewRequest, **bounds: object) -> list[DetectionBlock]:
    _, blocks = await process.results.open(job_id, request, **bounds)  # type: ignore[arg-type]  # as the caller names them
    return [block async for block in blocks]


def frames_of(blocks: list[DetectionBlock]) -> list[int]:
    return [index for block in blocks for index in block.frame_index.tolist()]


async def test_every_sampled_frame_is_told_once_those_without_a_box_included() -> None:
    process = Process(video=GeneratedVideo(frame_count=2500))
    job_id = await finished(process, sampling=Sampling(every_nth=2))
    blocks = await blocks_of(process, job_id, ViewRequest(min_confidence=0.999))
    assert frames_of(blocks) == list(range(0, 2500, 2))
    assert sum(len(block.detections) for block in blocks) == 0


async def test_a_view_asked_while_running_is_a_prefix_of_the_finished_one() -> None:
    process = Process()
    job_id = (await process.submit()).job.id
    await process.plan()
    for _ in range(3):
        await process.worker.work_once()
    header, _ = await process.results.open(job_id, ViewRequest())
    running = await blocks_of(process, job_id, ViewRequest())
    assert (header.complete_through_frame, header.is_complete) == (FIRST_SEGMENT_FRAMES + 39, False)
    await process.work_until_idle()
    whole = Candidates.concatenate([block.detections for block in await blocks_of(process, job_id, ViewRequest())])
    early = Candidates.concatenate([block.detections for block in running])
    assert frames_of(running) == list(range(FIRST_SEGMENT_FRAMES + 40))
    assert np.array_equal(early.boxes_xyxy, whole.boxes_xyxy[: len(early)])


async def test_raising_the_confidence_later_asks_the_stored_candidates_only() -> None:
    process = Process()
    job_id = await finished(process, min_confidence=0.05)
    inferred = len(process.model.frames_inferred)
    counts = [
        sum(len(block.detections) for block in await blocks_of(process, job_id, ViewRequest(min_confidence=confidence)))
        for confidence in (0.05, 0.5, 0.8)
    ]
    assert counts == [300, 200, 100]
    assert len(process.model.frames_inferred) == inferred


async def test_bounds_are_source_frames_and_inclusive() -> None:
    process = Process()
    job_id = await finished(process, sampling=Sampling(every_nth=10))
    assert frames_of(await blocks_of(process, job_id, ViewRequest(), first_frame=11, last_frame=40)) == [20, 30, 40]
    assert frames_of(await blocks_of(process, job_id, ViewRequest(), first_frame=99)) == []


async def test_failed_frames_are_told_with_their_reason() -> None:
    process = Process(video=GeneratedVideo(failing={5: "not_decodable"}))
    (block,) = await blocks_of(process, await finished(process), ViewRequest())
    assert block.failed == {5: "not_decodable"}
    assert 5 in block.frame_index


async def test_following_a_view_tells_each_frame_once_until_the_run_has_ended() -> None:
    process = Process()
    job_id = (await process.submit()).job.id
    _, blocks = await process.results.open(job_id, ViewRequest(), follow=True)

    async def collect() -> list[DetectionBlock]:
        return [block async for block in blocks]

    follower = asyncio.create_task(collect())
    await process.work_until_idle()
    async with asyncio.timeout(10):
        told = await follower
    assert frames_of(told) == list(range(100))
    assert sum(len(block.detections) for block in told) == 300


async def test_a_timeline_counts_every_detection_in_its_bucket() -> None:
    process = Process()
    job_id = await finished(process, min_confidence=0.8)
    _, timeline = await process.results.timeline(job_id, ViewRequest(), bucket_s=1.0)
    assert timeline.starts_s.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert timeline.frames.tolist() == [25, 25, 25, 25]
    assert timeline.counts.sum(axis=1).tolist() == [25, 25, 25, 25]
    assert timeline.class_names == ("circle", "square", "triangle")


async def test_a_timeline_of_some_classes_has_only_their_columns() -> None:
    process = Process()
    job_id = await finished(process)
    _, timeline = await process.results.timeline(job_id, ViewRequest(classes=("triangle",)), bucket_s=10)
    assert timeline.class_ids == (2,)
    assert timeline.counts.shape == (1, 1)


async def test_no_class_chosen_gives_a_timeline_without_columns() -> None:
    process = Process()
    job_id = await finished(process, classes=())
    _, timeline = await process.results.timeline(job_id, ViewRequest(), bucket_s=1.0)
    assert timeline.counts.shape == (4, 0)
    assert timeline.frames.sum() == 100


async def test_a_timeline_of_too_many_buckets_is_refused() -> None:
    process = Process(video=GeneratedVideo(frame_count=500_000, keys_every=1))
    job_id = (await process.submit(sampling=Sampling(every_nth=100_000))).job.id
    with pytest.raises(ThresholdOutOfRangeError, match="larger bucket_s"):
        await process.results.timeline(job_id, ViewRequest(), bucket_s=0.01)


async def test_a_frame_at_a_full_second_counts_in_the_bucket_that_begins_there() -> None:
    process = Process(video=GeneratedVideo(frame_count=240, fps=24))
    job_id = await finished(process)
    _, timeline = await process.results.timeline(job_id, ViewRequest(), bucket_s=1.0)
    assert timeline.frames.tolist() == [24] * 10


async def test_before_planning_a_view_is_empty_and_says_so() -> None:
    process = Process()
    job_id = (await process.submit()).job.id
    header, _ = await process.results.open(job_id, ViewRequest())
    assert header.complete_through_frame is None
    assert await blocks_of(process, job_id, ViewRequest()) == []


async def test_what_was_not_stored_and_what_means_nothing_is_refused_before_the_first_block() -> None:
    process = Process()
    job_id = await finished(process)
    with pytest.raises(ThresholdNotStoredError):
        await process.results.open(job_id, ViewRequest(min_confidence=0.01))
    with pytest.raises(ThresholdNotStoredError):
        await process.results.open(job_id, ViewRequest(iou=0.9))
    with pytest.raises(ClassUnknownError):
        await process.results.open(job_id, ViewRequest(classes=("car",)))
    with pytest.raises(ThresholdOutOfRangeError):
        await process.results.open(job_id, ViewRequest(), first_frame=5, last_frame=4)
    with pytest.raises(ThresholdOutOfRangeError):
        await process.results.timeline(job_id, ViewRequest(), bucket_s=0)
    with pytest.raises(JobNotFoundError):
        await process.results.open("job_unknown", ViewRequest())


async def test_a_view_that_follows_breaks_off_when_the_server_stops() -> None:
    process = Process()
    job_id = (await process.submit()).job.id
    await process.plan()
    await process.worker.work_once()
    _, blocks = await process.results.open(job_id, ViewRequest(), follow=True)
    assert frames_of([await anext(blocks)]) == list(range(FIRST_SEGMENT_FRAMES))
    process.following.stop()
    async with asyncio.timeout(5):
        with pytest.raises(ServerStoppingError):
            await anext(blocks)
