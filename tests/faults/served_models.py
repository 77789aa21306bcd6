"""The model repository of the scenarios: the demo model, and one that finds a crowd in every frame."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from orchestrator.core.contract import ModelCard, parameter_name
from tests.support.needs import ROOT
from tests.support.triton import CONFIG, quoted

DEMO: Final = "demo_shapes"
CROWD: Final = "crowd"
CROWD_MAX_BATCH: Final = 4
CROWD_CARD: Final = ModelCard(
    class_names=("somebody",),
    stride=32,
    imgsz=64,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest="c" * 64,
    weights_sha256="d" * 64,
    certificate="passed",
)


def write_repository(folder: Path) -> Path:
    """Made anew; the folder."""
    shutil.copytree(ROOT / "model_repository" / DEMO, folder / DEMO)
    version = folder / CROWD / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name(CROWD) / "model.py", version)
    parameter = (
        f'parameters {{ key: "{parameter_name(1)}" value {{ string_value: {quoted(CROWD_CARD.to_json())} }} }}\n'
    )
    (folder / CROWD / "config.pbtxt").write_text(CONFIG.format(max_batch=CROWD_MAX_BATCH) + parameter)
    return folder
