"""From the model's answer to candidates: what is kept, and what no model may answer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.core.candidates import require_contract, to_candidates
from orchestrator.core.letterbox import fit_letterbox
from orchestrator.core.types import FrameBatch, FrameStamp
from orchestrator.errors import ContractError

CLASSES = 3
BATCH = FrameBatch(
    0,
    np.zeros((2, 64, 64, 3), np.uint8),
    (FrameStamp(10, 400.0), FrameStamp(11, 440.0)),
    fit_letterbox(64, 64, imgsz=64, stride=32),
)


def answer(*rows: tuple[int, tuple[float, ...]]) -> NDArray[np.float32]:
    """Candidates (2, 300, 6) with the rows given by frame, each the first of its frame."""
    candidates = np.zeros((2, 300, 6), np.float32)
    for frame, row in rows:
        candidates[frame, 0] = row
    return candidates


def test_empty_rows_are_left_out_and_frames_keep_their_stamps() -> None:
    found = to_candidates(answer((1, (1, 2, 3, 4, 0.5, 2))), BATCH)
    assert (found.frame_index.tolist(), found.pts_ms.tolist(), found.class_ids.tolist()) == ([11], [440.0], [2])
    assert found.boxes_xyxy.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", range(6))
def test_an_answer_with_what_is_no_number_is_refused(number: float, field: int) -> None:
    candidates = answer((0, (1, 2, 3, 4, 0.5, 2)))
    candidates[1, 299, field] = number
    with pytest.raises(ContractError, match="not finite"):
        require_contract(candidates, class_count=CLASSES)


@pytest.mark.parametrize("class_id", [-1, 0.5, CLASSES])
def test_a_class_that_the_model_does_not_name_is_refused(class_id: float) -> None:
    with pytest.raises(ContractError, match="3 classes"):
        require_contract(answer((0, (1, 2, 3, 4, 0.5, class_id))), class_count=CLASSES)
