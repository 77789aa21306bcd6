"""An export that cannot be meant is refused before anything is read or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.__main__ import build_parser, spec_from
from export.spec import ExportSpec, Precision
from orchestrator.errors import ExportError
from orchestrator.settings import load_settings


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "yolo.pt"
    path.write_bytes(b"weights")
    return path


def test_defaults_are_those_of_the_contract(weights: Path, tmp_path: Path) -> None:
    spec = ExportSpec(weights=weights, name="yolo11n", repository=tmp_path)
    assert (spec.floor, spec.iou, spec.imgsz) == (0.05, 0.7, None)
    assert spec.model_folder == tmp_path / "yolo11n"
    assert spec.precision is Precision.FLOAT32


@pytest.mark.parametrize(("flags", "precision"), [([], Precision.FLOAT32), (["--half"], Precision.FLOAT16)])
def test_half_asks_for_float16(weights: Path, flags: list[str], precision: Precision) -> None:
    options = build_parser().parse_args([str(weights), "yolo11n", *flags])
    assert spec_from(options, load_settings({})).precision is precision


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("name", "", "cannot name a model"),
        ("name", "../up", "cannot name a model"),
        ("name", ".hidden", "cannot name a model"),
        ("name", "a" * 65, "cannot name a model"),
        ("floor", 0.0, "floor"),
        ("floor", 0.25, "floor"),
        ("floor", float("nan"), "floor"),
        ("iou", 1.0, "IoU"),
        ("iou", 0.0, "IoU"),
        ("imgsz", 0, "imgsz"),
        ("imgsz", 100_000, "imgsz"),
        ("weights", Path("nowhere.pt"), "no file nowhere.pt"),
        ("frames", Path("nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    weights: Path, tmp_path: Path, field: str, value: object, complaint: str
) -> None:
    fields: dict[str, Any] = {"weights": weights, "name": "yolo11n", "repository": tmp_path, field: value}
    with pytest.raises(ExportError, match=complaint):
        ExportSpec(**fields)


def test_exported_formats_are_refused_as_weights(tmp_path: Path) -> None:
    path = tmp_path / "yolo.onnx"
    path.write_bytes(b"graph")
    with pytest.raises(ExportError, match=r"not a \.pt checkpoint"):
        ExportSpec(weights=path, name="yolo11n", repository=tmp_path)
