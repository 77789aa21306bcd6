"""Twenty jobs at once: what they cost, how fairly they are served, what the API answers meanwhile, and memory."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from benchmarks.footprint import Footprint, watching_memory
from benchmarks.lab import Bench, Lab, MeasurementError, open_bench
from benchmarks.machine import StealMeter
from benchmarks.open_loop import LoadPlan, LoadReport
from benchmarks.pairs import Cost, Pairs, measure_pairs
from benchmarks.processes import cpu_s
from benchmarks.table import Row, at_least, at_most, over
from orchestrator.client import JobAnswer, SegmentBody, SubmitJob, VideoAnswer

JOBS: Final = 20
CLIP_FRAMES: Final = 100
# Jobs measured alone, one after another, before the twenty and again after them.
LONE_JOBS: Final = 4
# Longer than the twenty jobs take, even if it were served as much as all of them.
LONG_COPIES: Final = 40
LOOK_S: Final = 2.0
REQUESTS: Final = 3000
REQUESTS_PER_S: Final = 25.0
# Clips under load are made to last so many times as long as the load.
LOAD_MARGIN: Final = 2.0
SETTLED_AFTER_S: Final = 120.0
MB: Final = 1e6
# All twenty and the long one are at work; what the load submits waits behind them.
MAX_RUNNING_JOBS: Final = JOBS + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rush:
    """Twenty jobs beside a long one, from the first submit until the last is done.

    shorts: as they ended. service: frames that each had when the first of them ended. long_frames: served to the
    long one meanwhile. cost: of everything, the long job's frames included.
    """

    shorts: tuple[JobAnswer, ...]
    service: tuple[int, ...]
    long_frames: int
    cost: Cost


def crowd(lab: Lab) -> list[Row]:
    """many_videos, fairness, many_memory and api_under_load: one stack, one run, 1280x720 clips throughout.

    Twenty jobs of 100 frames are submitted at once beside a long job that is at work already, with nobody asking but
    for a list every two seconds; jobs alone, one after another, come before them and after them. CPU-seconds are those
    of all processes, and frames those of the long job too. Then 21 jobs on longer clips are at work under load; what
    the load submits is queued behind them, so it adds no inference. Memory is watched through all of it.
    """
    rushes: list[Rush] = []

    def rush_again() -> Cost:
        rushes.append(rush(lab, bench))
        return rushes[-1].cost

    with (
        open_bench(lab, MAX_RUNNING_JOBS=str(MAX_RUNNING_JOBS)) as bench,
        watching_memory(bench.stack.pid) as footprint,
    ):
        before = measure_pairs(lambda: lone_jobs(lab, bench), rush_again, pairs=1)
        pairs = with_more_reference(before, lone_jobs(lab, bench))
        report, steal = under_load(lab, bench, rushes[-1])
    failures = sum(not has_succeeded(job) for job in rushes[-1].shorts)
    return [
        Row(name="many_videos", value=pairs.cpu_ratios()[0], target=at_least(0.97), beside=pairs.beside()),
        Row(name="many_videos.failures", value=failures, target=at_most(0)),
        *memory_rows(footprint),
        *fairness_rows(rushes[-1]),
        *load_rows(report, steal),
    ]


def lone_jobs(lab: Lab, bench: Bench) -> Cost:
    """Each submitted when the one before is done; as many frames a job as each of the twenty has."""
    return summed([bench.job_cost(lab.hd_clip(CLIP_FRAMES)) for _ in range(LONE_JOBS)])


def with_more_reference(pairs: Pairs, after: Cost) -> Pairs:
    """Twenty jobs take minutes: a reference from both sides of them takes the machine's drift out."""
    [(before, ours)] = pairs.costs
    return Pairs(((summed([before, after]), ours),), pairs.disturbed)


def summed(costs: Sequence[Cost]) -> Cost:
    return Cost(
        sum(cost.frames for cost in costs), sum(cost.wall_s for cost in costs), sum(cost.cpu_s for cost in costs)
    )


def rush(lab: Lab, bench: Bench) -> Rush:
    """Raises MeasurementError where the long job ended before the others."""
    long_job = start(bench, bench.upload(lab.hd_clip(CLIP_FRAMES, copies=LONG_COPIES)))
    videos = [bench.upload(lab.hd_clip(CLIP_FRAMES)) for _ in range(JOBS)]
    for event in bench.client.follow(long_job.id):
        if isinstance(event.body, SegmentBody):
            break
    long_before = bench.client.job(long_job.id).progress.frames_done
    cpu_began_s, began_s = cpu_s(bench.stack.pid), time.perf_counter()
    shorts = [start(bench, video) for video in videos]
    service, ended = watch(bench, [job.id for job in shorts])
    wall_s, cpu_used_s = time.perf_counter() - began_s, cpu_s(bench.stack.pid) - cpu_began_s
    long_job = bench.client.job(long_job.id)
    bench.client.cancel(long_job.id)
    if long_job.is_terminal:
        raise MeasurementError(f"the long job was {long_job.state} before the short ones were done")
    long_frames = long_job.progress.frames_done - long_before
    frames = long_frames + sum(job.ledger.inferred for job in ended)
    return Rush(shorts=ended, service=service, long_frames=long_frames, cost=Cost(frames, wall_s, cpu_used_s))


def start(bench: Bench, video: VideoAnswer) -> JobAnswer:
    return bench.client.submit(SubmitJob(video_id=video.id, model=bench.model))


def watch(bench: Bench, job_ids: Sequence[str]) -> tuple[tuple[int, ...], tuple[JobAnswer, ...]]:
    """Look at all jobs until the last has ended: frames done when all were last seen at work, and the jobs' ends."""
    service = (0,) * len(job_ids)
    while True:
        listed = {job.id: job for job in bench.client.jobs(limit=2 * JOBS).items}
        jobs = tuple(listed[job_id] for job_id in job_ids)
        if all(job.is_terminal for job in jobs):
            return service, jobs
        if not any(job.is_terminal for job in jobs):
            service = tuple(job.progress.frames_done for job in jobs)
        time.sleep(LOOK_S)


def has_succeeded(job: JobAnswer) -> bool:
    return job.state == "succeeded" and job.ledger.inferred == job.ledger.planned == CLIP_FRAMES


def fairness_rows(rushed: Rush) -> list[Row]:
    """The jobs have one priority, so a fair share is one of 21 parts of all frames served.

    jain: over the frames that each of the twenty had when the first of them ended. slowdown: the slowest of them, from
    submit to end, over the time that its frames take at a fair share. long_share: of all frames meanwhile.
    """
    waits_s = [(job.finished_at - job.created_at).total_seconds() for job in rushed.shorts if job.finished_at]
    frames_per_s = rushed.cost.frames / rushed.cost.wall_s
    fair_s = CLIP_FRAMES * (JOBS + 1) / frames_per_s
    return [
        Row(
            name="fairness.jain",
            value=jain_index(rushed.service),
            target=at_least(0.95),
            beside={"frames": f"{min(rushed.service)}..{max(rushed.service)}"},
        ),
        Row(
            name="fairness.slowdown",
            value=max(waits_s) / fair_s,
            target=at_most(1.5),
            beside={"median": statistics.median(waits_s) / fair_s},
        ),
        Row(
            name="fairness.long_share",
            value=rushed.long_frames / rushed.cost.frames,
            target=over(0),
            beside={"fair": 1 / (JOBS + 1), "frames": rushed.long_frames},
        ),
    ]


def jain_index(service: Sequence[int]) -> float:
    """1 where all have the same, 1/n where one has everything; NaN where nobody has anything."""
    squares = sum(each * each for each in service)
    return sum(service) ** 2 / (len(service) * squares) if squares else float("nan")


def memory_rows(footprint: Footprint) -> list[Row]:
    """growth: under load, when all has long been warm and the work goes on as it began."""
    load_began_s = footprint.times_s[-1] - REQUESTS / REQUESTS_PER_S
    return [
        Row(name="many_memory", value=footprint.peak_bytes() / MB, target=at_most(400), unit="MB"),
        Row(
            name="many_memory.growth",
            value=footprint.growth(max(SETTLED_AFTER_S, load_began_s)),
            target=at_most(1.05),
            beside={"last MB": footprint.sizes_bytes[-1] / MB, "watched s": footprint.times_s[-1]},
        ),
    ]


def under_load(lab: Lab, bench: Bench, rushed: Rush) -> tuple[LoadReport, float]:
    """What a program that asks all the time sees while 21 jobs are at work; with the share of CPU stolen.

    Raises MeasurementError where a job ended before the load.
    """
    load_s = REQUESTS / REQUESTS_PER_S
    needed_frames = LOAD_MARGIN * load_s * rushed.cost.frames / rushed.cost.wall_s / MAX_RUNNING_JOBS
    copies = math.ceil(needed_frames / CLIP_FRAMES)
    videos = [bench.upload(lab.hd_clip(CLIP_FRAMES, copies=copies)) for _ in range(MAX_RUNNING_JOBS)]
    working = [start(bench, video) for video in videos]
    finished = rushed.shorts[0]
    plan = LoadPlan(
        url=bench.stack.url,
        video_id=finished.video.id,
        model=bench.model,
        working_ids=tuple(job.id for job in working),
        finished_id=finished.id,
        requests=REQUESTS,
        requests_per_s=REQUESTS_PER_S,
    )
    steal = StealMeter()
    program = [sys.executable, "-m", "benchmarks.open_loop"]
    answer = subprocess.run(program, input=msgspec.json.encode(plan), stdout=subprocess.PIPE, check=True).stdout
    share = steal.read()
    if ended := [job.id for job in working if bench.client.job(job.id).state != "running"]:
        raise MeasurementError(
            f"{len(ended)} of {len(working)} jobs of {copies * CLIP_FRAMES} frames ended before the load did"
        )
    return msgspec.json.decode(answer, type=LoadReport), share


def load_rows(report: LoadReport, steal: float) -> list[Row]:
    """time_outs: requests without an answer in time, and those whose answer was an error."""
    latencies_ms = [each for kind in report.latencies_ms.values() for each in kind]
    p99_by_kind = {f"{kind} p99": late(each, 99) for kind, each in report.latencies_ms.items()}
    return [
        Row(
            name="api_under_load.p99",
            value=late(latencies_ms, 99),
            target=at_most(100),
            unit="ms",
            beside={"p50": late(latencies_ms, 50), "max": max(latencies_ms), **p99_by_kind, "steal": steal},
        ),
        Row(
            name="api_under_load.time_outs",
            value=report.time_outs + len(report.errors),
            target=at_most(0),
            beside={"answered": len(latencies_ms), "errors": "; ".join(sorted(set(report.errors))[:3]) or "none"},
        ),
    ]


def late(latencies_ms: Sequence[float], percentile: float) -> float:
    return float(np.percentile(latencies_ms, percentile))
