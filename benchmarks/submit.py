"""How long a submit takes while a job runs: `python -m benchmarks.submit VIDEO [MODEL]`.

Starts a stack of its own on the model repository that the settings name, keeps one job running, and submits others
that differ in priority only, so that they join its run and add no work. Prints times in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from orchestrator.cli.embedded_stack import embedded_stack
from orchestrator.client import Client, SegmentBody, SubmitJob

SUBMITS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("model", nargs="?", default="demo_shapes")
    options = parser.parse_args()
    with embedded_stack(None) as stack, Client(stack.url) as client:
        video = client.upload(options.video)
        running = client.submit(SubmitJob(video_id=video.id, model=options.model))
        wait_for_first_segment(client, running.id)
        times_ms = sorted(submit_ms(client, video.id, options.model, number) for number in range(SUBMITS))
        still_runs = not client.job(running.id).is_terminal
    sys.stdout.write(
        f"submit while a job runs  median {statistics.median(times_ms):.1f} ms  "
        f"p95 {times_ms[int(0.95 * SUBMITS)]:.1f} ms  max {times_ms[-1]:.1f} ms  "
        f"({SUBMITS} submits; the job was {'still running' if still_runs else 'over: take a longer video'})\n"
    )


def wait_for_first_segment(client: Client, job_id: str) -> None:
    for event in client.follow(job_id):
        if isinstance(event.body, SegmentBody):
            return


def submit_ms(client: Client, video_id: str, model: str, number: int) -> float:
    job = SubmitJob(video_id=video_id, model=model, priority=1 + number % 100)
    began = time.perf_counter()
    client.submit(job)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
