"""What one export is asked to do, checked before anything heavy is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from orchestrator.core.contract import DEFAULT_CONFIDENCE, DEFAULT_FLOOR, DEFAULT_IOU
from orchestrator.errors import ExportError

MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LARGEST_IMGSZ: Final = 1_920


class Precision(StrEnum):
    """What the network computes in. Boxes are decoded and suppressed in float32 either way."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """weights: an Ultralytics checkpoint. name: of the model in `repository`.

    floor: confidence under which the graph stores nothing. iou: of its suppression. imgsz: longer side of a frame in
    model px, None for what the weights were trained with. frames: the user's own images or video for the certificate.
    precision: of the network; the certificate has limits for each.
    Raises ExportError where a field cannot be meant.
    """

    weights: Path
    name: str
    repository: Path
    floor: float = DEFAULT_FLOOR
    iou: float = DEFAULT_IOU
    imgsz: int | None = None
    frames: Path | None = None
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        if not self.weights.is_file():
            raise ExportError(f"there is no file {self.weights}; give the path of an Ultralytics checkpoint (.pt)")
        if self.weights.suffix != ".pt":
            raise ExportError(f"{self.weights} is not a .pt checkpoint; exported formats cannot be certified")
        if not MODEL_NAME.fullmatch(self.name):
            raise ExportError(
                f"{self.name!r} cannot name a model: letters, digits, dot, dash and underscore, 64 at most"
            )
        if not 0 < self.floor < DEFAULT_CONFIDENCE:
            raise ExportError(f"the floor must lie between 0 and {DEFAULT_CONFIDENCE}, not {self.floor}")
        if not 0 < self.iou < 1:
            raise ExportError(f"the IoU must lie between 0 and 1, not {self.iou}")
        if self.imgsz is not None and not 32 <= self.imgsz <= LARGEST_IMGSZ:
            raise ExportError(f"imgsz must lie between 32 and {LARGEST_IMGSZ}, not {self.imgsz}")
        if self.frames is not None and not self.frames.exists():
            raise ExportError(f"there is no file or folder {self.frames} to certify with")

    @property
    def model_folder(self) -> Path:
        return self.repository / self.name
