"""A job's life on in-memory parts that pass the contract suites."""

from __future__ import annotations

import pytest

from orchestrator.core.planning import FIRST_SEGMENT_FRAMES
from orchestrator.core.states import IndexState, JobState
from orchestrator.core.types import Sampling
from orchestrator.errors import (
    ClassUnknownError,
    DecoderUnavailableError,
    ModelNotFoundError,
    RequestInvalidError,
    ThresholdNotStoredError,
    VideoInUseError,
    VideoNotFoundError,
)
from orchestrator.jobs import parse_model
from orchestrator.testing.fake_reader import GeneratedVideo
from orchestrator.videos import MAX_INDEX_STRIKES
from tests.support.process import Process


async def test_a_job_goes_from_the_queue_to_its_end_and_every_frame_is_accounted_for() -> None:
    process = Process()
    job = (await process.submit()).job
    assert job.state is JobState.QUEUED
    await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert (ended.job.state, ended.stage) == (JobState.SUCCEEDED, "done")
    assert (ended.run.ledger.planned, ended.run.ledger.inferred, ended.run.ledger.skipped) == (100, 100, 0)
    assert ended.progress.frames_done == ended.progress.frames_total == 100
    assert sorted(process.model.frames_inferred) == list(range(100))
    assert process.slots.out == frozenset()


async def test_sampling_infers_only_the_sampled_frames_and_counts_the_others_as_skipped() -> None:
    process = Process()
    job = (await process.submit(sampling=Sampling(every_nth=7, start_ms=400, end_ms=2000))).job
    await process.work_until_idle()
    ledger = (await process.jobs.snapshot(job.id)).run.ledger
    assert sorted(process.model.frames_inferred) == list(range(10, 50, 7))
    assert (ledger.planned, ledger.skipped) == (6, 94)


async def test_frames_that_give_no_picture_are_failed_with_their_reason_and_warned_of() -> None:
    process = Process(video=GeneratedVideo(failing={3: "not_decodable", 50: "not_decodable"}))
    job = (await process.submit()).job
    await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert ended.job.state is JobState.SUCCEEDED
    assert ended.run.ledger.planned == ended.run.ledger.inferred + ended.run.ledger.failed
    assert ended.run.ledger.reasons == {"not_decodable": 2}
    assert ended.run.warnings == ("frames_failed",)


async def test_no_inferred_frame_is_a_failure_and_never_no_detections() -> None:
    process = Process(video=GeneratedVideo(frame_count=30, failing=dict.fromkeys(range(30), "not_decodable")))
    job = (await process.submit()).job
    await process.work_until_idle()
    ended = (await process.jobs.snapshot(job.id)).job
    assert ended.state is JobState.FAILED
    assert ended.failure is not None
    assert ended.failure.code == "video_without_frames"
    assert "30 not_decodable" in ended.failure.message


async def test_a_sampling_that_leaves_no_frame_fails_with_what_to_change() -> None:
    process = Process()
    job = (await process.submit(sampling=Sampling(start_ms=3_600_000))).job
    await process.work_until_idle()
    failure = (await process.jobs.snapshot(job.id)).job.failure
    assert failure is not None
    assert failure.code == "video_without_frames"
    assert "start_s" in failure.message


async def test_a_file_that_kills_its_indexer_holds_nobody_else_up() -> None:
    process = Process(video=GeneratedVideo(frame_count=8))
    deadly_id = await process.upload_deadly()
    healthy = (await process.submit()).job
    await process.work_until_idle()
    assert (await process.jobs.snapshot(healthy.id)).job.state is JobState.SUCCEEDED
    failed = await process.videos.get(deadly_id)
    assert failed.index_state is IndexState.FAILED
    assert failed.index_failure is not None
    assert failed.index_failure.code == "decoder_crashed"


async def test_a_lack_of_decoders_is_no_strike_against_a_video() -> None:
    process = Process()
    video_id = await process.upload_deadly()
    process.reader.deadly_paths.clear()
    process.reader.lacks = MAX_INDEX_STRIKES
    for _ in range(MAX_INDEX_STRIKES):
        with pytest.raises(DecoderUnavailableError):
            await process.videos.index_next()
    assert await process.videos.index_next()
    assert (await process.videos.get(video_id)).index_state is IndexState.READY


async def test_a_torn_index_fails_its_own_run_and_no_other() -> None:
    process = Process()
    torn = (await process.submit(await process.upload(b"torn"))).job
    process.stores.files.indices.clear()
    healthy = (await process.submit(await process.upload(b"healthy"))).job
    await process.work_until_idle()
    ended = (await process.jobs.snapshot(torn.id)).job
    assert ended.failure is not None
    assert ended.failure.code == "data_damaged"
    assert (await process.jobs.snapshot(healthy.id)).job.state is JobState.SUCCEEDED


async def test_cancelling_lets_go_of_the_file() -> None:
    process = Process()
    job = (await process.submit()).job
    await process.plan()
    await process.worker.work_once()
    await process.jobs.cancel(job.id)
    assert job.run_id in process.reader.runs_closed


async def test_every_end_is_counted_once() -> None:
    process = Process()
    cancelled, succeeded = (await process.submit()).job, (await process.submit(await process.upload(b"b"))).job
    await process.plan()
    await process.jobs.cancel(cancelled.id)
    await process.work_until_idle()
    assert (await process.jobs.snapshot(succeeded.id)).job.state is JobState.SUCCEEDED
    for state in ("cancelled", "succeeded"):
        assert process.metrics.registry.get_sample_value("trireel_jobs_finished_total", {"state": state}) == 1


async def test_the_realtime_factor_counts_the_sampled_stretch_only() -> None:
    process = Process()
    process.clock.ticks_a_read = 0.01
    job = (await process.submit(sampling=Sampling(start_ms=2000))).job
    await process.plan()
    for _ in range(2):
        await process.worker.work_once()
    progress = (await process.jobs.snapshot(job.id)).progress
    assert progress.fps is not None
    assert progress.realtime_factor == pytest.approx(progress.fps / 25)


async def test_a_second_job_for_the_same_run_infers_nothing_again() -> None:
    process = Process()
    video_id = await process.upload()
    first = (await process.submit(video_id)).job
    await process.work_until_idle()
    second = (await process.submit(video_id, min_confidence=0.6)).job
    assert second.run_id == first.run_id
    assert second.state is JobState.SUCCEEDED
    assert len(process.model.frames_inferred) == 100


async def test_cancelling_one_of_two_jobs_does_not_stop_their_run() -> None:
    process = Process()
    video_id = await process.upload()
    first, second = (await process.submit(video_id)).job, (await process.submit(video_id)).job
    await process.plan()
    await process.worker.work_once()
    await process.jobs.cancel(first.id)
    await process.work_until_idle()
    assert (await process.jobs.snapshot(first.id)).job.state is JobState.CANCELLED
    assert (await process.jobs.snapshot(second.id)).job.state is JobState.SUCCEEDED


async def test_a_cancelled_job_stops_and_a_later_one_goes_on_where_it_stopped() -> None:
    process = Process()
    video_id = await process.upload()
    first = (await process.submit(video_id)).job
    await process.plan()
    await process.worker.work_once()
    await process.jobs.cancel(first.id)
    await process.work_until_idle()
    inferred_before = len(process.model.frames_inferred)
    assert inferred_before == FIRST_SEGMENT_FRAMES
    second = (await process.submit(video_id)).job
    await process.work_until_idle()
    assert (await process.jobs.snapshot(second.id)).run.ledger.inferred == 100
    assert len(process.model.frames_inferred) == 100


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelling_is_legal_in_every_state_and_twice(times: int) -> None:
    process = Process()
    queued = (await process.submit()).job
    for _ in range(times):
        assert (await process.jobs.cancel(queued.id)).job.state is JobState.CANCELLED
    finished = (await process.submit()).job
    await process.work_until_idle()
    for _ in range(times):
        assert (await process.jobs.cancel(finished.id)).job.state is JobState.SUCCEEDED


async def test_no_more_jobs_run_than_allowed_and_the_urgent_go_first() -> None:
    process = Process(max_running_jobs=1)
    jobs = [(await process.submit(await process.upload(name), priority=p)).job for name, p in ((b"a", 10), (b"b", 90))]
    await process.plan()
    states = [(await process.jobs.snapshot(job.id)).job.state for job in jobs]
    assert states == [JobState.QUEUED, JobState.RUNNING]
    assert (await process.jobs.snapshot(jobs[0].id)).queue_position == 1


async def test_a_job_over_its_own_time_limit_fails_and_keeps_what_is_committed() -> None:
    process = Process()
    job = (await process.submit(timeout_s=5.0)).job
    await process.plan()
    await process.worker.work_once()
    process.clock.seconds = 6.0
    await process.work_until_idle()
    ended = await process.jobs.snapshot(job.id)
    assert ended.job.failure is not None
    assert ended.job.failure.code == "job_timeout"
    assert ended.run.ledger.inferred == FIRST_SEGMENT_FRAMES
    assert job.run_id in process.reader.runs_closed


async def test_a_time_limit_ends_no_work_that_another_job_wants() -> None:
    process = Process()
    video_id = await process.upload()
    late, patient = (await process.submit(video_id, timeout_s=5.0)).job, (await process.submit(video_id)).job
    await process.plan()
    await process.worker.work_once()
    process.clock.seconds = 6.0
    await process.plan()
    assert late.run_id not in process.reader.runs_closed
    await process.work_until_idle()
    states = [(await process.jobs.snapshot(job.id)).job.state for job in (late, patient)]
    assert states == [JobState.FAILED, JobState.SUCCEEDED]


async def test_waiting_in_the_queue_does_not_count_for_a_time_limit() -> None:
    process = Process(max_running_jobs=1)
    first, second = [(await process.submit(await process.upload(name), timeout_s=5.0)).job for name in (b"a", b"b")]
    await process.plan()
    process.clock.seconds = 4.0
    await process.work_until_idle()
    process.clock.seconds = 8.0
    await process.work_until_idle()
    states = [(await process.jobs.snapshot(job.id)).job.state for job in (first, second)]
    assert states == [JobState.SUCCEEDED, JobState.SUCCEEDED]


async def test_deleting_the_last_job_deletes_its_run_and_frees_the_video() -> None:
    process = Process()
    video_id = await process.upload()
    job = (await process.submit(video_id)).job
    await process.work_until_idle()
    with pytest.raises(VideoInUseError):
        await process.videos.remove(video_id)
    await process.jobs.remove(job.id)
    await process.videos.remove(video_id)
    assert await process.stores.runs.ids() == frozenset()


async def test_what_cannot_be_asked_is_refused_before_a_job_exists() -> None:
    process = Process()
    video_id = await process.upload()
    with pytest.raises(VideoNotFoundError):
        await process.submit("vid_unknown")
    with pytest.raises(ModelNotFoundError):
        await process.submit(video_id, model="cars")
    with pytest.raises(ClassUnknownError, match="lorry"):
        await process.submit(video_id, classes=("circle", "lorry"))
    with pytest.raises(ThresholdNotStoredError):
        await process.submit(video_id, min_confidence=0.01)
    assert (await process.jobs.page(limit=10, cursor=None)).items == []


@pytest.mark.parametrize("text", ["", ":1", "yolo:", "yolo:0", "yolo:x", "yolo:1:2", "yolo:-1"])
def test_a_model_is_named_with_or_without_a_version_and_not_otherwise(text: str) -> None:
    assert parse_model("yolo") == ("yolo", None)
    assert parse_model("yolo:12") == ("yolo", 12)
    with pytest.raises(RequestInvalidError):
        parse_model(text)
