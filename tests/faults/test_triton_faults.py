"""Triton away, silent, slow, refusing, talking nonsense, and coming back as another."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.faults.conftest import OpenTrial
from tests.faults.evidence import FAILED, SUCCEEDED
from tests.faults.served_models import DEMO
from tests.faults.topology import PLAIN, Role
from tests.faults.trial import Trial
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, QuietServer, part_of_clip
from tests.support.faulty_triton import INFER, REGISTER, FaultyTriton, Spoiling
from tests.support.triton_program import TritonProgram

pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(240)]

TIMEOUT_S: Final = 1
# Longer than readiness may take to tell.
AWAY_S: Final = 7.0
BUDGET_S: Final = 3
# Passing statuses are answered so often in a row; the client waits 0.1 s, 0.2 s, 0.4 s ... in between.
REFUSALS: Final = 4


def wait_for_reason(trial: Trial, job_id: str, codes: frozenset[str]) -> None:
    """Until the job tells what it waits for."""
    trial.wait_until(
        lambda: trial.insist("GET", f"/v1/jobs/{job_id}")["state_reason"] in codes, what="it tells why it waits"
    )


@pytest.mark.parametrize(
    "away_s", [AWAY_S, pytest.param(60.0, marks=pytest.mark.thorough)], ids=lambda seconds: f"{seconds:.0f}_s"
)
def test_jobs_wait_for_a_triton_that_is_away(
    trial_on: OpenTrial, own_triton: TritonProgram, seed: int, away_s: float
) -> None:
    with trial_on(PLAIN, seed, triton=own_triton) as trial:
        fault = trial.faults.plan(f"no Triton for {away_s:.0f} s")
        job_ids = [trial.submit(work) for work in (ALL_FRAMES, EVERY_OTHER)]
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        trial.cluster.stop_triton()
        trial.pass_time(away_s)
        assert [trial.insist("GET", f"/v1/jobs/{job_id}")["state"] for job_id in job_ids][-1] == "running"
        trial.cluster.start_triton()
        fault.fired(own_triton.grpc_url)


@pytest.mark.thorough
def test_a_job_that_waited_longer_than_its_budget_fails_and_a_retry_goes_on(
    trial_on: OpenTrial, own_triton: TritonProgram, seed: int
) -> None:
    with trial_on(
        PLAIN, seed, triton=own_triton, WAIT_BUDGET_S=str(BUDGET_S), TRITON_TIMEOUT_S=str(TIMEOUT_S)
    ) as trial:
        fault = trial.faults.plan(f"no Triton for longer than {BUDGET_S} s")
        job_id = trial.submit(ALL_FRAMES)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        trial.cluster.stop_triton()
        trial.wait_until(
            lambda: trial.insist("GET", f"/v1/jobs/{job_id}")["state"] == FAILED, what="the job has waited enough"
        )
        failed = trial.insist("GET", f"/v1/jobs/{job_id}")
        assert failed["error"]["code"] == "triton_unavailable"
        assert failed["ledger"]["inferred"] > 0
        trial.cluster.start_triton()
        trial.insist("POST", f"/v1/jobs/{job_id}/retry")
        trial.follow(job_id)
        fault.fired(own_triton.grpc_url)


@pytest.mark.thorough
def test_a_server_starts_and_keeps_its_jobs_without_a_triton(
    trial_on: OpenTrial, own_triton: TritonProgram, seed: int
) -> None:
    with trial_on(PLAIN, seed, triton=own_triton) as trial:
        fault = trial.faults.plan("a start without Triton")
        job_id = trial.submit(ALL_FRAMES)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        trial.cluster.kill(Role.API)
        trial.cluster.stop_triton()
        trial.cluster.start(Role.API, is_ready=False)
        wait_for_reason(trial, job_id, frozenset({"triton_unavailable"}))
        trial.pass_time(AWAY_S)
        trial.cluster.start_triton()
        fault.fired(own_triton.grpc_url)


@pytest.mark.thorough
def test_jobs_wait_for_a_triton_that_answers_nothing(trial_on: OpenTrial, own_triton: TritonProgram, seed: int) -> None:
    with trial_on(PLAIN, seed, triton=own_triton, TRITON_TIMEOUT_S=str(TIMEOUT_S)) as trial:
        fault = trial.faults.plan("SIGSTOP of Triton")
        trial.submit(ALL_FRAMES)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        pid = own_triton.pause()
        trial.cluster.note(Role.TRITON, is_up=False)
        trial.pass_time(AWAY_S)
        own_triton.resume()
        trial.cluster.note(Role.TRITON, is_up=True)
        fault.fired(pid)


def test_a_triton_that_refuses_shared_memory_gets_equal_frames_over_grpc(
    trial_on: OpenTrial, faulty: FaultyTriton, seed: int
) -> None:
    faulty.spoil_all(REGISTER, Spoiling(status=grpc.StatusCode.INVALID_ARGUMENT))
    with trial_on(PLAIN, seed, triton_url=faulty.grpc_url) as trial:
        fault = trial.faults.plan("shared memory is refused")
        for work in (ALL_FRAMES, EVERY_OTHER):
            trial.submit(work)
        trial.wait_for_share(0.5)
        assert trial.insist("GET", "/readyz")["transport"] == "grpc"
        fault.fired(f"{faulty.spoilt[REGISTER]} registrations")
        assert faulty.spoilt[REGISTER] > 0


def test_a_triton_slower_than_its_deadline_is_asked_again(trial_on: OpenTrial, faulty: FaultyTriton, seed: int) -> None:
    with trial_on(PLAIN, seed, triton_url=faulty.grpc_url, TRITON_TIMEOUT_S=str(TIMEOUT_S)) as trial:
        fault = trial.faults.plan("every inference takes three times its deadline")
        trial.submit(ALL_FRAMES)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        faulty.spoil_all(INFER, Spoiling(delay_s=3 * TIMEOUT_S))
        trial.wait_until(lambda: faulty.spoilt[INFER] >= 2 * REFUSALS, what="requests were asked again")
        faulty.spoil(None)
        fault.fired(f"{faulty.spoilt[INFER]} requests")


PASSING: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
LASTING: Final = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)


def test_a_status_that_passes_delays_a_job_and_one_that_lasts_fails_it_until_a_retry(
    trial_on: OpenTrial, faulty: FaultyTriton, quiet: QuietServer, seed: int
) -> None:
    works = {status: part_of_clip(number) for number, status in enumerate((*PASSING, *LASTING))}
    for work in works.values():
        quiet.undisturbed(work)
    with trial_on(PLAIN, seed, triton_url=faulty.grpc_url) as trial:
        for status in PASSING:
            fault = trial.faults.plan(f"{status.name}, {REFUSALS} times")
            faulty.spoil_first(INFER, REFUSALS, Spoiling(status=status))
            job_id = trial.submit(works[status])
            trial.wait_until(lambda job_id=job_id: trial.heard.has_ended(job_id), what=f"a job got over {status.name}")
            fault.fired(f"{faulty.spoilt[INFER]} requests so far")
        for status in LASTING:
            fault = trial.faults.plan(f"{status.name}, always")
            faulty.spoil_all(INFER, Spoiling(status=status))
            job_id = trial.submit(works[status])
            wait_for_failure(trial, job_id, "inference_failed")
            faulty.spoil(None)
            retry(trial, job_id)
            fault.fired(f"{faulty.spoilt[INFER]} requests so far")


def wait_for_failure(trial: Trial, job_id: str, code: str) -> None:
    trial.wait_until(lambda: trial.heard.has_ended(job_id), what=f"a job failed with {code}")
    job = trial.insist("GET", f"/v1/jobs/{job_id}")
    assert (job["state"], job["error"] and job["error"]["code"]) == (FAILED, code)


def retry(trial: Trial, job_id: str) -> None:
    """Once the fault has passed; waits until the job has got over it."""
    trial.insist("POST", f"/v1/jobs/{job_id}/retry")
    trial.follow(job_id)
    trial.wait_until(
        lambda: trial.insist("GET", f"/v1/jobs/{job_id}")["state"] == SUCCEEDED, what="a retried job succeeds"
    )


def doctored(change: Callable[[Any], None]) -> Spoiling:
    """Triton's own answer, with a change."""

    def doctor(answer: bytes) -> bytes:
        message = service_pb2.ModelInferResponse.FromString(answer)
        change(message)
        return bytes(message.SerializeToString())

    return Spoiling(doctor=doctor)


def changed_numbers(change: Callable[[np.ndarray], None]) -> Callable[[Any], None]:
    """Of the candidates (N, 300, 6)."""

    def change_message(message: Any) -> None:
        shape = list(message.outputs[0].shape)
        numbers = np.frombuffer(message.raw_output_contents[0], np.float32).reshape(shape).copy()
        change(numbers)
        message.raw_output_contents[0] = numbers.tobytes()

    return change_message


def lose_half(message: Any) -> None:
    message.outputs[0].shape[1] = 150
    message.raw_output_contents[0] = message.raw_output_contents[0][: len(message.raw_output_contents[0]) // 2]


def set_best(field: int, value: float) -> Callable[[np.ndarray], None]:
    """Of every frame's best candidate."""

    def change(numbers: np.ndarray) -> None:
        numbers[:, 0, field] = value

    return change


NONSENSE: Final[dict[str, Callable[[Any], None]]] = {
    "fewer candidates than promised": lose_half,
    "no output": lambda message: message.ClearField("outputs"),
    "another type": lambda message: setattr(message.outputs[0], "datatype", "FP16"),
    "a confidence that is no number": changed_numbers(set_best(4, np.nan)),
    "a side that is no number": changed_numbers(set_best(0, np.inf)),
    "a class that does not exist": changed_numbers(set_best(5, 99.0)),
    "an empty output": lambda message: message.raw_output_contents.__setitem__(0, b""),
}


def test_nonsense_fails_a_job_and_is_never_stored(
    trial_on: OpenTrial,
    faulty: FaultyTriton,
    quiet: QuietServer,
    seed: int,
) -> None:
    works = {name: part_of_clip(number) for number, name in enumerate(NONSENSE)}
    for work in works.values():
        quiet.undisturbed(work)
    with trial_on(PLAIN, seed, triton_url=faulty.grpc_url) as trial:
        for name, change in NONSENSE.items():
            fault = trial.faults.plan(f"answers with {name}")
            faulty.spoil_all(INFER, doctored(change))
            job_id = trial.submit(works[name])
            wait_for_failure(trial, job_id, "contract_broken")
            faulty.spoil(None)
            retry(trial, job_id)
            fault.fired(f"{faulty.spoilt[INFER]} answers so far")


@pytest.fixture
def other_repository(repository: Path, tmp_path: Path) -> Iterator[Path]:
    """The same name and version, and another network: its description says so."""
    other = tmp_path / "other_repository"
    shutil.copytree(repository / DEMO, other / DEMO)
    for config in (other / DEMO).rglob("*.pbtxt"):
        text, count = re.subn(r'\\"digest\\":\\"[0-9a-f]{64}', rf'\\"digest\\":\\"{"f" * 64}', config.read_text())
        assert count == 1
        config.write_text(text)
    return other


@pytest.mark.parametrize("code", ["model_changed", "model_not_found"])
def test_a_job_ends_when_its_model_does_and_goes_on_when_it_is_back(
    trial_on: OpenTrial, own_triton: TritonProgram, other_repository: Path, tmp_path: Path, seed: int, code: str
) -> None:
    if code == "model_not_found":
        shutil.rmtree(other_repository / DEMO)
    with trial_on(PLAIN, seed, triton=own_triton) as trial:
        fault = trial.faults.plan("Triton starts again with another model")
        job_id = trial.submit(ALL_FRAMES)
        trial.wait_for_share(trial.random.uniform(0.1, 0.5))
        served = own_triton.repository
        trial.cluster.kill_triton()
        own_triton.repository = other_repository
        trial.cluster.start_triton(serves=code == "model_changed")
        wait_for_failure(trial, job_id, code)
        fault.fired(own_triton.repository)
        trial.cluster.stop_triton()
        own_triton.repository = served
        trial.cluster.start_triton()
        trial.wait_until(lambda: has_model(trial), what="the model is served again")
        retry(trial, job_id)


def has_model(trial: Trial) -> bool:
    return any(model["name"] == DEMO for model in trial.insist("GET", "/v1/models")["items"])
