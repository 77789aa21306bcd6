"""What Triton's index and configurations say, read into statuses and served models."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from orchestrator.core.contract import ModelCard, parameter_name
from orchestrator.errors import ContractError, ModelNotFoundError, ModelNotReadyError
from orchestrator.inference.catalogue import choose, served_model, statuses_from
from tests.support.triton import mean_colour_card


def config(cards: dict[int, ModelCard | str], *, max_batch: int = 8, groups: tuple[tuple[int, int], ...] = ()) -> Any:
    """A ModelConfig. groups: (count, number of GPUs) of each instance group."""
    message = model_config_pb2.ModelConfig(max_batch_size=max_batch)
    for version, card in cards.items():
        text = card if isinstance(card, str) else card.to_json()
        message.parameters[parameter_name(version)].string_value = text
    for count, gpus in groups:
        message.instance_group.add(count=count, gpus=range(gpus))
    return message


def index(*entries: tuple[str, str, str, str]) -> Any:
    """A RepositoryIndexResponse of (name, version, state, reason)."""
    message = service_pb2.RepositoryIndexResponse()
    for name, version, state, reason in entries:
        message.models.add(name=name, version=version, state=state, reason=reason)
    return message


CARS_AND_OTHERS = index(
    ("shapes", "1", "READY", ""),
    ("cars", "2", "UNAVAILABLE", "Internal: no such module\n\nAt:\n  model.py(1)"),
    ("cars", "1", "READY", ""),
    ("text", "", "", ""),
)


def test_every_version_is_listed_by_name_and_version() -> None:
    statuses = statuses_from(CARS_AND_OTHERS, {"cars": config({1: mean_colour_card()}), "shapes": config({})})
    assert [(status.name, status.version, status.is_ready) for status in statuses] == [
        ("cars", 1, True),
        ("cars", 2, False),
        ("shapes", 1, False),
        ("text", 0, False),
    ]
    reasons = [status.reason for status in statuses]
    assert reasons[0] == ""
    assert reasons[1] == "Internal: no such module"
    assert "has no parameter trireel.1" in reasons[2]
    assert reasons[3] == "it is not loaded"


def test_the_newest_ready_version_is_chosen_unless_one_is_named() -> None:
    cards = {version: mean_colour_card(str(version) * 64) for version in (1, 2, 10)}
    entries = index(*(("cars", str(version), "READY", "") for version in cards), ("cars", "11", "LOADING", ""))
    statuses = statuses_from(entries, {"cars": config(cards)})
    assert choose(statuses, "cars", None).version.version == 10
    assert choose(statuses, "cars", 2).version.digest == "2" * 64
    with pytest.raises(ModelNotReadyError, match="cars:11 is not ready: loading"):
        choose(statuses, "cars", 11)


def test_an_unknown_name_and_a_broken_model_differ() -> None:
    statuses = statuses_from(CARS_AND_OTHERS, {"cars": config({1: mean_colour_card()}), "shapes": None})
    with pytest.raises(ModelNotFoundError, match="no model trucks;"):
        choose(statuses, "trucks", None)
    with pytest.raises(ModelNotFoundError, match="no model cars:3;"):
        choose(statuses, "cars", 3)
    with pytest.raises(ModelNotReadyError, match="cars:2 is not ready: Internal: no such module"):
        choose(statuses, "cars", 2)


@pytest.mark.parametrize(("groups", "instances"), [((), 1), (((2, 0),), 2), (((2, 3), (1, 0)), 7)])
def test_instances_count_every_gpu(groups: tuple[tuple[int, int], ...], instances: int) -> None:
    model = served_model("cars", 1, config({1: mean_colour_card()}, groups=groups))
    assert (model.instances, model.max_batch) == (instances, 8)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (config({}), "no parameter trireel.1"),
        (config({1: "{}"}), "export it again"),
        (config({1: mean_colour_card()}, max_batch=0), "max_batch_size is 0"),
    ],
)
def test_a_model_without_our_description_is_not_served(broken: Any, reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        served_model("cars", 1, broken)
