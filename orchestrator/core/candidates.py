"""From the model's answer to stored candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.letterbox import boxes_to_source
from orchestrator.core.types import Candidates, FrameBatch


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
