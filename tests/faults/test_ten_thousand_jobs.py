"""Ten thousand queued jobs and a server that is killed under them."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.topology import PLAIN, Role
from tests.faults.trial import Trial
from tests.faults.works import QuietServer, part_of_clip
from tests.support.faulty_triton import INFER, FaultyTriton, Spoiling

pytestmark = [pytest.mark.needs("triton"), pytest.mark.thorough, pytest.mark.alone, pytest.mark.timeout(600)]

JOBS: Final = 10_000
# So many runs: each job shares its own with some hundreds.
RUNS: Final = 25
CLIENTS: Final = 8
HELD_S: Final = 600.0
START_LIMIT_S: Final = 10.0
LOOK_LIMIT_S: Final = 2.0
END_LIMIT_S: Final = 240.0


def test_ten_thousand_queued_jobs_survive_a_restart_in_their_order(
    trial_on: OpenTrial, faulty: FaultyTriton, quiet: QuietServer, seed: int
) -> None:
    works = [part_of_clip(number, length_s=0.4) for number in range(RUNS)]
    for work in works:
        quiet.undisturbed(work)
    # While no inference is answered, nothing ends, and all but the running jobs stay in the queue.
    faulty.spoil_all(INFER, Spoiling(delay_s=HELD_S))
    with trial_on(PLAIN, seed, triton_url=faulty.grpc_url) as trial:
        trial.end_timeout_s = END_LIMIT_S
        fault = trial.faults.plan(f"kill -9 of a server with {JOBS} jobs")
        bodies = [work.body(trial.upload(work.video)) for work in works]
        job_ids = submit_all(trial, bodies)
        for number, job_id in enumerate(job_ids):
            trial.accept(job_id, works[number % RUNS])
        fault.fired(trial.cluster.kill(Role.API))
        began_s = time.monotonic()
        trial.cluster.start(Role.API)
        assert time.monotonic() - began_s < START_LIMIT_S
        look_at(trial, job_ids)
        faulty.spoil(None)


def submit_all(trial: Trial, bodies: list[dict[str, Any]]) -> list[str]:
    """Ids of `JOBS` jobs, each in the queue behind the one before it, but for those that were sent side by side."""

    def submit_some(first: int) -> list[str]:
        with trial.http() as http:
            answers = [http.post("/v1/jobs", json=bodies[number % RUNS]) for number in range(first, JOBS, CLIENTS)]
        return [answer.raise_for_status().json()["id"] for answer in answers]

    with ThreadPoolExecutor(max_workers=CLIENTS) as threads:
        by_client = list(threads.map(submit_some, range(CLIENTS)))
    return [by_client[number % CLIENTS][number // CLIENTS] for number in range(JOBS)]


def look_at(trial: Trial, job_ids: list[str]) -> None:
    """The queue is in order, and looking at it takes no time."""
    with trial.http() as http:
        for path in ("/v1/jobs?limit=100", "/metrics", f"/v1/jobs/{job_ids[JOBS // 2]}"):
            began_s = time.monotonic()
            http.get(path).raise_for_status()
            assert time.monotonic() - began_s < LOOK_LIMIT_S, path
        # Of one client: those that send side by side overtake one another.
        sample = sorted(trial.random.sample(range(JOBS // 10, JOBS, CLIENTS), 20))
        places = [http.get(f"/v1/jobs/{job_ids[number]}").json()["queue_position"] for number in sample]
    assert all(before < after for before, after in itertools.pairwise(places)), places
    assert abs(places[-1] - sample[-1]) < JOBS // 20, (places, sample)
