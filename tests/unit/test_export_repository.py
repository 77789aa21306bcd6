"""A version gets into the repository whole or not at all, and the others keep their description."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.repository import add_version, locked, published_cards
from orchestrator.core.contract import METADATA_FILE, ModelCard
from orchestrator.errors import ExportError

CARD = ModelCard(
    class_names=("circle",),
    stride=32,
    imgsz=320,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest="1" * 64,
    weights_sha256="w" * 64,
    certificate="passed",
)


def build(folder: Path, card: ModelCard) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(card.digest.encode())
    (folder / METADATA_FILE).write_text(json.dumps({"card": json.loads(card.to_json())}))
    (folder / "__pycache__").mkdir()
    return folder


def described_versions(config: Path) -> set[str]:
    parameters = text_format.Parse(config.read_text(), model_config_pb2.ModelConfig()).parameters
    return {name for name in parameters if name.startswith("trireel.")}


def test_first_version_is_one_and_complete(tmp_path: Path) -> None:
    model = tmp_path / "repository" / "shapes"
    with locked(model.parent):
        assert add_version(model, build(tmp_path / "built", CARD), CARD) == 1
    assert sorted(path.name for path in model.iterdir()) == ["1", "config.pbtxt", "configs"]
    assert sorted(path.name for path in (model / "1").iterdir()) == [METADATA_FILE, "model.onnx"]


def test_next_version_keeps_the_description_of_earlier_ones(tmp_path: Path) -> None:
    model = tmp_path / "shapes"
    second = dataclasses.replace(CARD, digest="2" * 64)
    assert add_version(model, build(tmp_path / "a", CARD), CARD) == 1
    assert add_version(model, build(tmp_path / "b", second), second) == 2
    assert published_cards(model) == {1: CARD, 2: second}
    for config in (model / "config.pbtxt", *(model / "configs").iterdir()):
        assert described_versions(config) == {"trireel.1", "trireel.2"}


def test_a_removed_version_loses_its_description_but_not_its_number(tmp_path: Path) -> None:
    model = tmp_path / "shapes"
    for name in ("a", "b"):
        add_version(model, build(tmp_path / name, CARD), CARD)
    (model / "1").rename(tmp_path / "removed")
    assert add_version(model, build(tmp_path / "c", CARD), CARD) == 3
    assert described_versions(model / "config.pbtxt") == {"trireel.2", "trireel.3"}


def test_a_copy_that_fails_leaves_no_model_behind(tmp_path: Path) -> None:
    model = tmp_path / "repository" / "shapes"
    with locked(model.parent), pytest.raises(ExportError, match="could not be written"):
        add_version(model, tmp_path / "never_built", CARD)
    assert list(model.parent.iterdir()) == []


def test_a_copy_that_fails_leaves_the_earlier_version_as_it_was(tmp_path: Path) -> None:
    model = tmp_path / "shapes"
    add_version(model, build(tmp_path / "built", CARD), CARD)
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    with pytest.raises(ExportError, match="could not be written"):
        add_version(model, tmp_path / "never_built", CARD)
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


def test_what_a_killed_export_left_is_not_in_the_way(tmp_path: Path) -> None:
    model = tmp_path / "shapes"
    add_version(model, build(tmp_path / "built", CARD), CARD)
    (model / ".2.arriving").mkdir()
    (model / ".2.arriving" / "model.onnx").write_text("half a graph")
    assert add_version(model, build(tmp_path / "other", CARD), CARD) == 2
    assert (model / "2" / "model.onnx").read_bytes() == CARD.digest.encode()
    assert not (model / ".2.arriving").exists()


def test_foreign_versions_are_not_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "shapes"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text("name: 'theirs'")
    with pytest.raises(ExportError, match="was not published by this program"):
        add_version(model, build(tmp_path / "built", CARD), CARD)
    assert (model / "config.pbtxt").read_text() == "name: 'theirs'"
