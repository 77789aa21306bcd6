"""How soon one sees something: an answer, a first detection, the end of a cancelled job, a server that is back."""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import Final

import tritonclient.grpc as triton_grpc

from benchmarks.lab import Bench, Lab, MeasurementError, open_bench, open_stack
from benchmarks.table import Row, at_most, row_of_medians
from orchestrator.client import JobAnswer, SegmentBody, SubmitJob

CLIP_FRAMES: Final = 100
# Long enough that a job is still at work when it is cancelled, or its server killed, after its second segment, which
# has 512 frames on a GPU.
LONG_FRAMES: Final = {"cpu": 400, "gpu": 6000}
SEGMENTS_BEFORE: Final = 2
SUBMITS: Final = 50
QUIET_S: Final = 0.5
STARTS: Final = 3


def first_detection(lab: Lab) -> list[Row]:
    """From the call that submits to the first segment event at the client, on an idle stack and a clip it never saw."""
    with open_bench(lab) as bench:
        waits_s = [first_segment_s(lab, bench) for _ in range(lab.pairs)]
    return [row_of_medians("first_detection", waits_s, at_most(0.7), unit="s")]


def first_segment_s(lab: Lab, bench: Bench) -> float:
    """Uploads and indexes beforehand; the stack is idle again afterwards."""
    video = bench.upload(lab.clip(CLIP_FRAMES))
    began_s = time.perf_counter()
    job = bench.client.submit(SubmitJob(video_id=video.id, model=bench.model))
    wait_s: float | None = None
    for event in bench.client.follow(job.id):
        if wait_s is None and isinstance(event.body, SegmentBody):
            wait_s = time.perf_counter() - began_s
    if wait_s is None:
        raise MeasurementError(f"job {job.id} told of no segment")
    return wait_s


def submit(lab: Lab) -> list[Row]:
    """From the call that submits to its answer at the client, while a job is at work.

    The others differ from it in priority only, so they join its run and add no work.
    """
    with open_bench(lab) as bench:
        running, _ = job_at_work(lab, bench)
        waits_ms = [submit_ms(bench, running.video.id, priority=1 + number) for number in range(SUBMITS)]
        if bench.client.job(running.id).is_terminal:
            raise MeasurementError(f"job {running.id} was over before all submits were answered")
    return [row_of_medians("submit", waits_ms, at_most(50), unit="ms")]


def submit_ms(bench: Bench, video_id: str, *, priority: int) -> float:
    job = SubmitJob(video_id=video_id, model=bench.model, priority=priority)
    began_s = time.perf_counter()
    bench.client.submit(job)
    return 1000 * (time.perf_counter() - began_s)


def job_at_work(lab: Lab, bench: Bench) -> tuple[JobAnswer, int | None]:
    """A job on a clip that the stack never saw, at its steady pace, and the id of the last event it told."""
    video = bench.upload(lab.clip(LONG_FRAMES[lab.device]))
    job = bench.client.submit(SubmitJob(video_id=video.id, model=bench.model))
    segments = 0
    for event in bench.client.follow(job.id):
        segments += isinstance(event.body, SegmentBody)
        if segments == SEGMENTS_BEFORE:
            return job, event.id
    raise MeasurementError(f"job {job.id} told of fewer than {SEGMENTS_BEFORE} segments")


def cancel(lab: Lab) -> list[Row]:
    """From the call that cancels to the end of the last request, by Triton's own statistics.

    The job is at its steady pace, and alone. 0 where Triton was asked nothing after the call.
    """
    with open_bench(lab) as bench, statistics_client(bench) as triton:
        delays_s = [cancel_delay_s(lab, bench, triton) for _ in range(lab.pairs)]
    return [row_of_medians("cancel", delays_s, at_most(0.5), unit="s")]


def statistics_client(bench: Bench) -> triton_grpc.InferenceServerClient:
    return triton_grpc.InferenceServerClient(bench.client.readiness().triton_url)


def cancel_delay_s(lab: Lab, bench: Bench, triton: triton_grpc.InferenceServerClient) -> float:
    """Raises MeasurementError where the job was over before."""
    job, _ = job_at_work(lab, bench)
    called_s = time.time()
    bench.client.cancel(job.id)
    if ended(bench, job).state != "cancelled":
        raise MeasurementError(f"job {job.id} was over before it could be cancelled")
    return max(0.0, last_request_s(triton, bench.model) - called_s)


def ended(bench: Bench, job: JobAnswer) -> JobAnswer:
    for _ in bench.client.follow(job.id):
        pass
    return bench.client.job(job.id)


def last_request_s(triton: triton_grpc.InferenceServerClient, model: str) -> float:
    """When the model's last request ended, in seconds since the epoch, once none came for a moment."""
    last_ms = -1
    while True:
        found = triton.get_inference_statistics(model)
        before_ms, last_ms = last_ms, max(each.last_inference for each in found.model_stats)
        if last_ms == before_ms:
            return float(last_ms) / 1000
        time.sleep(QUIET_S)


def start_up(lab: Lab) -> list[Row]:
    """From starting `trireel serve` to its being ready, models loaded and warmed, with a data directory of its own.

    first detection: of the first job there, which tells whether it was warm.
    """
    waits_s, first_s = [], []
    for _ in range(STARTS):
        began_s = time.perf_counter()
        with open_stack(lab, lab.new_data_dir()) as bench:
            waits_s.append(time.perf_counter() - began_s)
            first_s.append(first_segment_s(lab, bench))
    beside: dict[str, object] = {"first detection s": statistics.median(first_s)}
    return [row_of_medians("start_up", waits_s, at_most(10), unit="s", beside=beside)]


def recovery(lab: Lab) -> list[Row]:
    """From kill -9 of a server at work to the first new commit of the one that is started in its place at once."""
    return [row_of_medians("recovery", [recovery_s(lab) for _ in range(STARTS)], at_most(10), unit="s")]


def recovery_s(lab: Lab) -> float:
    data_dir = lab.new_data_dir()
    with open_stack(lab, data_dir) as bench:
        job, last_id = job_at_work(lab, bench)
        killed_s = time.perf_counter()
        os.kill(bench.stack.pid, signal.SIGKILL)
    with open_stack(lab, data_dir) as bench:
        for event in bench.client.follow(job.id, last_event_id=last_id):
            if isinstance(event.body, SegmentBody):
                return time.perf_counter() - killed_s
    raise MeasurementError(f"job {job.id} was over before its server was killed")
