from __future__ import annotations

import json

import pytest

from orchestrator.core.contract import ModelCard, parameter_name
from orchestrator.errors import ContractError

CARD = ModelCard(
    class_names=("person", "ünïcode"),
    stride=32,
    imgsz=640,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest="ab" * 32,
    weights_sha256="cd" * 32,
    certificate="passed",
)


def test_a_card_survives_the_way_through_tritons_configuration() -> None:
    assert ModelCard.from_json(CARD.to_json()) == CARD


def test_each_version_has_a_parameter_of_its_own() -> None:
    assert [parameter_name(version) for version in (1, 12)] == ["trireel.1", "trireel.12"]


@pytest.mark.parametrize(
    "spoilt",
    [
        "not json",
        "[]",
        json.dumps({"class_names": ["a"]}),
        CARD.to_json().replace('"imgsz":640', '"imgsz":641'),
        CARD.to_json().replace('"floor":0.05', '"floor":1.5'),
        CARD.to_json().replace('"stride":32', '"stride":"32"'),
        CARD.to_json().replace('"stride":32', '"stride":32,"surprise":1'),
    ],
)
def test_a_card_that_cannot_be_trusted_is_refused_with_what_to_do(spoilt: str) -> None:
    with pytest.raises(ContractError):
        ModelCard.from_json(spoilt)
