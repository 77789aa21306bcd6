"""What every served model version promises, shared by the export and the serving side.

| tensor | type and shape | meaning |
| --- | --- | --- |
| `frames` (in) | uint8 (N, H, W, 3) | RGB, letterboxed; H and W multiples of the stride, at most `imgsz` |
| `candidates` (out) | float32 (N, 300, 6) | x1, y1, x2, y2 in letterboxed pixels, confidence, class id |

Rows of `candidates` are sorted by confidence, best first; rows after the last candidate are zero.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from orchestrator.errors import ContractError

FRAMES: Final = "frames"
CANDIDATES: Final = "candidates"
MAX_CANDIDATES: Final = 300
CANDIDATE_FIELDS: Final = 6
FRAME_CHANNELS: Final = 3

# Ultralytics' own defaults, so that a stored candidate set answers the questions its users are used to.
DEFAULT_FLOOR: Final = 0.05
DEFAULT_IOU: Final = 0.7
DEFAULT_CONFIDENCE: Final = 0.25
DEFAULT_IMGSZ: Final = 640

PARAMETER_PREFIX: Final = "trireel."
CERTIFICATE_FILE: Final = "certificate.json"
METADATA_FILE: Final = "metadata.json"


def parameter_name(version: int) -> str:
    """Name of the parameter in Triton's model configuration that describes `version`."""
    return f"{PARAMETER_PREFIX}{version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What the orchestrator must know of one published version; travels as JSON in Triton's configuration.

    imgsz, stride: pixels. floor: the confidence under which nothing is stored. iou: of the suppression
    in the graph. digest: SHA-256 (hex) of the served graph, the identity of the version.
    weights_sha256: of the file it was exported from. certificate: "passed" or "weak".
    """

    class_names: tuple[str, ...]
    stride: int
    imgsz: int
    floor: float
    iou: float
    precision: str
    digest: str
    weights_sha256: str
    certificate: str

    def __post_init__(self) -> None:
        if not self.class_names:
            raise ContractError("the version names no classes; export it again")
        if self.stride < 1 or self.imgsz < self.stride or self.imgsz % self.stride:
            raise ContractError(f"imgsz {self.imgsz} must be a multiple of stride {self.stride}")
        if not (0 < self.floor < 1 and 0 < self.iou < 1):
            raise ContractError(f"floor {self.floor} and iou {self.iou} must lie between 0 and 1")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Raises ContractError when a field is missing, unknown or out of range."""
        try:
            fields = json.loads(text)
            return cls(**{**fields, "class_names": tuple(fields["class_names"])})
        except (ValueError, TypeError, KeyError) as exc:
            raise ContractError(f"a model version's description cannot be read ({exc}); export it again") from exc
