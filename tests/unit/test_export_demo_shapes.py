"""The committed model is whole, small, certified, and written by the exporter of today."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from export.demo.scene import CLASS_NAMES
from export.repository import published_cards
from export.triton_config import render_configs
from orchestrator.core.contract import CERTIFICATE_FILE

ROOT: Final = Path(__file__).resolve().parents[2]
MODEL: Final = ROOT / "model_repository" / "demo_shapes"
MOST_BYTES: Final = 6_000_000


def test_model_is_no_larger_than_6_mb() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_configurations_are_what_the_exporter_writes() -> None:
    written = {path: (MODEL / path).read_text() for path in render_configs("demo_shapes", published_cards(MODEL))}
    assert written == render_configs("demo_shapes", published_cards(MODEL))


def test_each_version_is_the_graph_that_its_description_names() -> None:
    for version, card in published_cards(MODEL).items():
        graph = (MODEL / str(version) / "model.onnx").read_bytes()
        assert card.digest == hashlib.sha256(graph).hexdigest()
        assert card.class_names == CLASS_NAMES


def test_each_version_has_passed_its_certificate() -> None:
    for version, card in published_cards(MODEL).items():
        certificate = json.loads((MODEL / str(version) / CERTIFICATE_FILE).read_text())
        assert card.certificate == certificate["verdict"] == "passed"


def test_each_version_serves_with_the_embedded_model_of_today() -> None:
    today = (ROOT / "export" / "embedded_model.py").read_bytes()
    assert all((MODEL / str(version) / "model.py").read_bytes() == today for version in published_cards(MODEL))
