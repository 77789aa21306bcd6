"""What several servers say, as one catalogue and one readiness."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.types import ServedModel
from orchestrator.errors import (
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    TrireelError,
    TritonTimeoutError,
    TritonUnavailableError,
)
from orchestrator.inference.merged_catalogue import Told, joined, merge, require_answer
from orchestrator.inference.readiness import EndpointReadiness, over_all
from orchestrator.ports import ModelStatus
from orchestrator.testing.fake_model import served_model

AWAY = TritonUnavailableError("listing models: connection refused")


def ready(model: ServedModel) -> ModelStatus:
    version = model.version
    return ModelStatus(name=version.name, version=version.version, is_ready=True, reason="", model=model)


def unready(name: str, version: int, reason: str) -> ModelStatus:
    return ModelStatus(name=name, version=version, is_ready=False, reason=reason, model=None)


def cars(version: int = 1, *, digest: str = "a" * 64, max_batch: int = 8, instances: int = 1) -> ServedModel:
    return replace(served_model("cars", version, digest=digest), max_batch=max_batch, instances=instances)


def test_what_one_server_says_stays_as_it_is() -> None:
    statuses = [ready(cars()), unready("trucks", 0, "it is not loaded")]
    assert merge([Told("a:1", statuses)]) is statuses


def test_a_version_is_ready_if_one_server_serves_it() -> None:
    merged = merge(
        [
            Told("a:1", [ready(cars()), unready("cars", 2, "loading")]),
            Told("b:1", [unready("cars", 1, "loading"), ready(served_model("trucks"))]),
        ]
    )
    assert [(status.name, status.version, status.is_ready) for status in merged] == [
        ("cars", 1, True),
        ("cars", 2, False),
        ("trucks", 1, True),
    ]
    assert [status.reason for status in merged] == ["", "a:1: loading", ""]


def test_all_servers_of_a_version_count_and_its_smallest_batch_fits_all() -> None:
    (status,) = merge(
        [
            Told("a:1", [ready(cars(max_batch=16, instances=2))]),
            Told("b:1", [ready(cars(max_batch=8, instances=3))]),
            Told("c:1", [ready(cars(max_batch=4))], AWAY),
        ]
    )
    assert status.model is not None
    assert (status.model.instances, status.model.max_batch) == (5, 8)


@pytest.mark.parametrize("error", [None, AWAY])
def test_different_networks_under_one_version_are_not_ready(error: InferenceError | None) -> None:
    """Also while one of the servers is away: it may come back in the middle of a run."""
    (status,) = merge(
        [Told("a:1", [ready(cars())]), Told("b:1", [ready(cars(digest="c" * 64))], error), Told("d:1", [ready(cars())])]
    )
    assert (status.is_ready, status.model) == (False, None)
    assert "a:1, d:1: aaaaaaaaaaaa; b:1: cccccccccccc" in status.reason


def test_a_version_of_a_server_that_is_away_is_not_ready() -> None:
    (status,) = merge([Told("a:1", []), Told("b:1", [ready(cars())], AWAY)])
    assert (status.is_ready, status.reason) == (False, "b:1: it does not answer")


def test_one_answer_is_enough() -> None:
    told = [Told("a:1", [], AWAY), Told("b:1", [])]
    assert require_answer(told) is told
    with pytest.raises(TritonUnavailableError, match=r"a:1: listing models: connection refused; b:1: .*no answer"):
        require_answer([Told("a:1", [], AWAY), Told("b:1", [], TritonTimeoutError("no answer"))])


@pytest.mark.parametrize(
    ("errors", "of", "kind"),
    [
        ([ModelNotFoundError("no cars")], 1, ModelNotFoundError),
        ([ModelNotFoundError("no cars"), ModelNotFoundError("no cars")], 2, ModelNotFoundError),
        ([ModelNotFoundError("no cars")], 2, ModelNotReadyError),
        ([ModelNotFoundError("no cars"), ModelNotReadyError("broken")], 2, ModelNotReadyError),
        ([ModelNotFoundError("no cars"), AWAY], 2, TritonUnavailableError),
    ],
)
def test_errors_of_several_are_one_that_names_them(
    errors: list[TrireelError], of: int, kind: type[TrireelError]
) -> None:
    error = joined({f"{name}:1": error for name, error in zip("ab", errors, strict=False)}, of=of)
    assert type(error) is kind
    assert str(error) == str(errors[0]) if of == 1 else "a:1: no cars" in str(error)


def endpoint(url: str, *, transport_reason: str = "", reasons: tuple[str, ...] = ()) -> EndpointReadiness:
    return EndpointReadiness(
        url=url,
        is_ready=not reasons,
        reasons=reasons,
        transport="grpc" if transport_reason else "shm",
        transport_reason=transport_reason,
    )


def test_readiness_of_one_server_names_it_nowhere() -> None:
    readiness = over_all([endpoint("a:1", transport_reason="refused")], [Told("a:1", [ready(cars())])])
    assert (readiness.is_ready, readiness.transport, readiness.transport_reason) == (True, "grpc", "refused")
    readiness = over_all([endpoint("a:1", reasons=("Triton does not answer",))], [Told("a:1", [], AWAY)])
    assert (readiness.is_ready, readiness.reasons, readiness.grpc_url) == (False, ("Triton does not answer",), "a:1")


def test_readiness_of_several_servers_names_those_that_are_away() -> None:
    endpoints = [
        endpoint("a:1"),
        endpoint("b:1", transport_reason="refused"),
        endpoint("c:1", reasons=("Triton does not answer",)),
    ]
    told = [Told("a:1", [ready(cars())]), Told("b:1", [ready(cars())]), Told("c:1", [], AWAY)]
    readiness = over_all(endpoints, told)
    assert (readiness.is_ready, readiness.transport) == (True, "mixed")
    assert readiness.transport_reason == "b:1: refused"
    assert readiness.reasons == ("c:1: Triton does not answer",)
    assert readiness.grpc_url == "a:1,b:1,c:1"
    assert readiness.endpoints == tuple(endpoints)


def test_the_transport_is_that_of_the_servers_that_are_ready() -> None:
    endpoints = [endpoint("a:1", transport_reason="refused"), endpoint("b:1", reasons=("Triton does not answer",))]
    readiness = over_all(endpoints, [Told("a:1", [ready(cars())]), Told("b:1", [], AWAY)])
    assert readiness.transport == "grpc"


def test_servers_that_contradict_each_other_are_not_ready_and_say_so() -> None:
    told = [Told("a:1", [ready(cars())]), Told("b:1", [ready(cars(digest="c" * 64))])]
    readiness = over_all([endpoint("a:1"), endpoint("b:1")], told)
    assert not readiness.is_ready
    assert [reason.partition(" (")[0] for reason in readiness.reasons] == [
        "cars:1: servers have different networks under this version"
    ]
