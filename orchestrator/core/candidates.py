"""From the model's answer to stored candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.letterbox import boxes_to_source
from orchestrator.core.types import Candidates, FrameBatch
from orchestrator.errors import ContractError


def require_contract(answer: NDArray[np.float32], *, class_count: int) -> None:
    """Raises ContractError if `candidates` (N, 300, 6) hold anything that must not be stored as boxes."""
    if not np.isfinite(answer).all():
        raise ContractError("its candidates hold numbers that are not finite")
    confidence = answer[:, :, 4]
    if confidence.min(initial=0) < 0 or confidence.max(initial=0) > 1:
        raise ContractError("its confidences are not between 0 and 1")
    if (confidence[:, :-1] < confidence[:, 1:]).any():
        raise ContractError("its candidates are not sorted by confidence")
    class_ids = answer[:, :, 5][confidence > 0]
    is_class = (class_ids >= 0) & (class_ids < class_count) & (class_ids == np.floor(class_ids))
    if not is_class.all():
        raise ContractError(f"its candidates have class ids that are none of its {class_count} classes")


def to_candidates(answer: NDArray[np.float32], batch: FrameBatch) -> Candidates:
    """Carry the contract's `candidates` (N, 300, 6) of a batch into source pixels, empty rows left out.

    The order is the answer's: frame by frame, best first.
    """
    confidence = answer[:, :, 4]
    frame, row = np.nonzero(confidence > 0)
    kept = answer[frame, row]
    return Candidates(
        frame_index=np.array([stamp.index for stamp in batch.stamps], dtype=np.int32)[frame],
        pts_ms=np.array([stamp.pts_ms for stamp in batch.stamps], dtype=np.float64)[frame],
        class_ids=kept[:, 5].astype(np.int16),
        confidence=kept[:, 4].astype(np.float32),
        boxes_xyxy=boxes_to_source(kept[:, :4], batch.letterbox),
    )
