"""Requests that race: one submit fifty times, and cancels and deletes against the end of their job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.evidence import CANCELLED, DELETED, SUCCEEDED
from tests.faults.topology import EMBEDDED_ON_POSTGRESQL, PLAIN, Role, Topology, as_parameters
from tests.faults.trial import Trial
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, QuietServer, part_of_clip

pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(180)]

SUBMITS: Final = 50
ROUNDS: Final = 12
# A part of the clip takes about so long; cancels strike before, at and after its end.
LATEST_CANCEL_S: Final = 1.0


def submit_at_once(trial: Trial, key: str, body: dict[str, object]) -> list[tuple[int, dict[str, object]]]:
    """Statuses and answers of `SUBMITS` submits under one key."""

    def submit(_: int) -> tuple[int, dict[str, object]]:
        with trial.http() as http:
            answer = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
            return answer.status_code, answer.json()

    with ThreadPoolExecutor(max_workers=SUBMITS) as threads:
        return list(threads.map(submit, range(SUBMITS)))


@pytest.mark.parametrize("topology", as_parameters(PLAIN, EMBEDDED_ON_POSTGRESQL))
def test_one_submit_sent_fifty_times_at_once_makes_one_job(trial_on: OpenTrial, topology: Topology, seed: int) -> None:
    with trial_on(topology, seed) as trial:
        fault = trial.faults.plan(f"{SUBMITS} submits with one key")
        key = trial.new_key()
        body = ALL_FRAMES.body(trial.upload(ALL_FRAMES.video))
        answers = submit_at_once(trial, key, body)
        assert {status for status, _ in answers} == {202}
        (job_id,) = {str(answer["id"]) for _, answer in answers}
        trial.accept(job_id, ALL_FRAMES)
        trial.follow(job_id)
        others = submit_at_once(trial, key, EVERY_OTHER.body(trial.upload(EVERY_OTHER.video)))
        assert {(status, answer["code"]) for status, answer in others} == {(422, "idempotency_key_reused")}
        assert trial.insist("GET", "/v1/jobs?limit=100")["items"][0]["id"] == job_id
        assert len(trial.insist("GET", "/v1/jobs?limit=100")["items"]) == 1
        fault.fired(f"{len(answers)} answers")


def test_a_submit_that_is_sent_again_after_a_kill_makes_no_second_job(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(PLAIN, seed) as trial, ThreadPoolExecutor(max_workers=SUBMITS) as threads:
        fault = trial.faults.plan("kill -9 of the server while it is sent one submit again and again")
        key = trial.new_key()
        body = ALL_FRAMES.body(trial.upload(ALL_FRAMES.video))
        headers = {"Idempotency-Key": key}
        sent = [threads.submit(trial.insist, "POST", "/v1/jobs", json=body, headers=headers) for _ in range(SUBMITS)]
        trial.pass_time(trial.random.uniform(0.0, 0.2))
        fault.fired(trial.cluster.kill(Role.API))
        trial.cluster.start(Role.API)
        (job_id,) = {each.result()["id"] for each in sent}
        trial.accept(job_id, ALL_FRAMES)
        assert len(trial.insist("GET", "/v1/jobs?limit=100")["items"]) == 1


@pytest.mark.parametrize("topology", as_parameters(PLAIN, EMBEDDED_ON_POSTGRESQL, thorough={EMBEDDED_ON_POSTGRESQL}))
def test_cancelling_or_deleting_races_with_the_end_and_one_of_them_wins(
    trial_on: OpenTrial, quiet: QuietServer, topology: Topology, seed: int
) -> None:
    works = [part_of_clip(number) for number in range(ROUNDS)]
    for work in works:
        quiet.undisturbed(work)
    with trial_on(topology, seed) as trial, ThreadPoolExecutor() as beside:
        cancelled, late, deleted = (trial.faults.plan(name) for name in ("cancelled", "cancelled too late", "deleted"))
        for number, work in enumerate(works):
            is_deleted = number % 3 == 1
            # One that was cancelled is retried.
            job_id = trial.submit(work, ends=frozenset({DELETED if is_deleted else SUCCEEDED}))
            wait_before_cancel(trial, job_id, number)
            # Twice at once: cancelling is legal in every state.
            twice = [beside.submit(trial.insist, "POST", f"/v1/jobs/{job_id}/cancel") for _ in range(2)]
            for each in twice:
                each.result()
            trial.wait_until(lambda job_id=job_id: has_ended(trial, job_id), what=f"{job_id} ends")
            if state_of(trial, job_id) == CANCELLED:
                cancelled.fired(job_id)
                trial.insist("POST", f"/v1/jobs/{job_id}/retry")
                trial.follow(job_id)
            else:
                late.fired(job_id)
            if is_deleted:
                trial.pass_time(trial.random.uniform(0.0, LATEST_CANCEL_S))
                trial.insist("DELETE", f"/v1/jobs/{job_id}")
                deleted.fired(job_id)


def wait_before_cancel(trial: Trial, job_id: str, number: int) -> None:
    """Of every four cancels the first comes at once and the last too late; the others race."""
    match number % 4:
        case 0:
            return
        case 3:
            trial.wait_until(lambda: trial.heard.has_ended(job_id), what=f"{job_id} ends")
        case _:
            trial.pass_time(trial.random.uniform(0.0, LATEST_CANCEL_S))


def state_of(trial: Trial, job_id: str) -> str:
    return str(trial.insist("GET", f"/v1/jobs/{job_id}")["state"])


def has_ended(trial: Trial, job_id: str) -> bool:
    return state_of(trial, job_id) in (CANCELLED, SUCCEEDED)
