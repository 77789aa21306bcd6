"""A `Model` that finds in each generated frame what the frame's pixels tell, and a `ModelCatalogue` of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.contract import CANDIDATE_FIELDS, MAX_CANDIDATES, ModelCard
from orchestrator.core.types import FrameBatch, ModelVersion, ServedModel
from orchestrator.errors import InferenceError, ModelNotFoundError, ModelNotReadyError
from orchestrator.ports import ModelStatus
from orchestrator.testing.fake_reader import read_index

BOXES_A_FRAME: Final = 3
BOX_PX: Final = 8


def served_model(name: str = "shapes", version: int = 1, *, digest: str | None = None) -> ServedModel:
    """A small model version of three classes."""
    card = ModelCard(
        class_names=("circle", "square", "triangle"),
        stride=32,
        imgsz=64,
        floor=0.05,
        iou=0.7,
        precision="float32",
        digest=digest or f"{name}-{version}".encode().hex().ljust(64, "0"),
        weights_sha256="0" * 64,
        certificate="passed",
    )
    return ServedModel(version=ModelVersion(name, version, card.digest), card=card, max_batch=8, instances=1)


@dataclass(slots=True)
class FakeModel:
    """failures: raised by the next calls, in order. frames_inferred: source indices, as they came.

    Frame i gets `BOXES_A_FRAME` squares of class i % 3 in its upper left corner, best first.
    """

    failures: deque[InferenceError] = field(default_factory=deque)
    frames_inferred: list[int] = field(default_factory=list)

    async def infer(self, model: ServedModel, batch: FrameBatch) -> NDArray[np.float32]:
        if self.failures:
            raise self.failures.popleft()
        answer = np.zeros((len(batch.stamps), MAX_CANDIDATES, CANDIDATE_FIELDS), np.float32)
        left, top = batch.letterbox.pad_x_px, batch.letterbox.pad_y_px
        for frame, row in enumerate(batch.pixels):
            index = read_index(row)
            self.frames_inferred.append(index)
            for rank in range(BOXES_A_FRAME):
                confidence = 0.9 - 0.3 * rank
                box = (left, top, left + BOX_PX * (rank + 1), top + BOX_PX * (rank + 1))
                answer[frame, rank] = (*box, confidence, index % len(model.card.class_names))
        return answer


class FakeModelCatalogue:
    """`ports.ModelCatalogue` of the models given; `set_ready` changes what Triton says of one."""

    def __init__(self, models: Iterable[ServedModel] = ()) -> None:
        self._models = {(model.version.name, model.version.version): model for model in models}
        self._unready: dict[tuple[str, int], str] = {}

    def set_ready(self, name: str, version: int, *, reason_against: str | None) -> None:
        if reason_against is None:
            self._unready.pop((name, version), None)
        else:
            self._unready[name, version] = reason_against

    async def find(self, name: str, version: int | None = None) -> ServedModel:
        known = [key for key in sorted(self._models) if key[0] == name and version in (None, key[1])]
        if not known:
            raise ModelNotFoundError(f"there is no model {name}")
        ready = [key for key in known if key not in self._unready]
        if not ready:
            raise ModelNotReadyError(f"{name} is not ready: {self._unready[known[-1]]}")
        return self._models[ready[-1]]

    async def list(self) -> Sequence[ModelStatus]:
        return [
            ModelStatus(
                name=name,
                version=version,
                is_ready=(name, version) not in self._unready,
                reason=self._unready.get((name, version), ""),
                model=None if (name, version) in self._unready else model,
            )
            for (name, version), model in sorted(self._models.items())
        ]
