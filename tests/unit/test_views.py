from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from orchestrator.core.contract import ModelCard
from orchestrator.core.types import Candidates, View
from orchestrator.core.views import apply_view, checked_view, class_ids_of, pairwise_iou, suppresses_again
from orchestrator.errors import ClassUnknownError, ThresholdNotStoredError, ThresholdOutOfRangeError

CARD = ModelCard(
    class_names=("car", "bus", "7"),
    stride=32,
    imgsz=640,
    floor=0.05,
    iou=0.7,
    precision="float32",
    digest="d",
    weights_sha256="w",
    certificate="passed",
)


def candidates_of(rows: list[tuple[int, int, float, tuple[float, float, float, float]]]) -> Candidates:
    """rows: frame, class, confidence, box."""
    return Candidates(
        frame_index=np.array([row[0] for row in rows], dtype=np.int32),
        pts_ms=np.array([row[0] * 40.0 for row in rows]),
        class_ids=np.array([row[1] for row in rows], dtype=np.int16),
        confidence=np.array([row[2] for row in rows], dtype=np.float32),
        boxes_xyxy=np.array([row[3] for row in rows], dtype=np.float32).reshape(-1, 4),
    )


BOX = (0.0, 0.0, 10.0, 10.0)
NEAR = (0.0, 0.0, 10.0, 6.0)  # IoU 0.6 with BOX
FAR = (50.0, 50.0, 60.0, 60.0)


def test_an_empty_set_stays_empty_under_every_view() -> None:
    assert len(apply_view(Candidates.empty(), View(iou=0.3), CARD)) == 0


def test_the_confidence_is_inclusive() -> None:
    shown = apply_view(candidates_of([(0, 0, 0.25, BOX), (0, 0, 0.2499, FAR)]), View(min_confidence=0.25), CARD)
    assert shown.confidence.tolist() == [0.25]


def test_classes_filter_and_an_empty_choice_shows_nothing() -> None:
    stored = candidates_of([(0, 0, 0.9, BOX), (0, 1, 0.8, FAR)])
    assert apply_view(stored, View(class_ids=frozenset({1})), CARD).class_ids.tolist() == [1]
    assert len(apply_view(stored, View(class_ids=frozenset()), CARD)) == 0


def test_max_det_keeps_the_best_of_each_frame() -> None:
    stored = candidates_of([(0, 0, 0.9, BOX), (0, 0, 0.8, FAR), (3, 0, 0.7, BOX), (3, 0, 0.6, FAR)])
    shown = apply_view(stored, View(max_det=1), CARD)
    assert shown.frame_index.tolist() == [0, 3]
    assert shown.confidence.tolist() == pytest.approx([0.9, 0.7])


def test_a_stricter_iou_suppresses_within_a_class_and_a_frame_only() -> None:
    stored = candidates_of([(0, 0, 0.9, BOX), (0, 0, 0.8, NEAR), (0, 1, 0.7, NEAR), (1, 0, 0.6, NEAR)])
    shown = apply_view(stored, View(iou=0.5), CARD)
    assert shown.confidence.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert suppresses_again(View(iou=0.5), CARD)
    assert not suppresses_again(View(iou=0.7), CARD)


def test_what_was_not_stored_is_refused() -> None:
    with pytest.raises(ThresholdNotStoredError, match=r"0\.05"):
        checked_view(View(min_confidence=0.01), CARD)
    with pytest.raises(ThresholdNotStoredError, match=r"0\.7"):
        checked_view(View(iou=0.8), CARD)
    assert checked_view(View(min_confidence=0.05, iou=0.7), CARD) == View(min_confidence=0.05, iou=0.7)


@pytest.mark.parametrize("wrong", [{"min_confidence": 1.1}, {"iou": 0.0}, {"max_det": 0}, {"max_det": 301}])
def test_thresholds_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ThresholdOutOfRangeError):
        View(**wrong)  # type: ignore[arg-type]  # the table mixes ints and floats


def test_classes_are_found_by_name_and_by_id_and_a_name_wins() -> None:
    assert class_ids_of(["bus", "0"], CARD) == {0, 1}
    assert class_ids_of(["7"], CARD) == {2}
    with pytest.raises(ClassUnknownError, match="lorry"):
        class_ids_of(["car", "lorry"], CARD)


boxes = st_numpy.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(4)), elements=st.floats(0, 60, width=32)).map(
    lambda b: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:] + 1], axis=1)
)


@given(boxes=boxes, low=st.floats(0.05, 0.5), high=st.floats(0.5, 0.95))
def test_raising_the_confidence_afterwards_equals_asking_for_it_at_once(
    boxes: NDArray[np.float32], low: float, high: float
) -> None:
    confidence = np.sort(np.linspace(0.06, 0.99, len(boxes)).astype(np.float32))[::-1]
    stored = candidates_of([(0, 0, float(c), tuple(b)) for c, b in zip(confidence, boxes, strict=True)])  # type: ignore[misc]
    for iou in (0.7, 0.4):
        at_once = apply_view(stored, View(min_confidence=high, iou=iou), CARD)
        later = apply_view(
            apply_view(stored, View(min_confidence=low, iou=iou), CARD), View(min_confidence=high, iou=0.7), CARD
        )
        assert at_once.confidence.tolist() == later.confidence.tolist()


@given(boxes=boxes)
def test_iou_is_symmetric_within_0_and_1_and_1_with_itself(boxes: NDArray[np.float32]) -> None:
    iou = pairwise_iou(boxes, boxes)
    assert np.allclose(iou, iou.T)
    assert ((iou >= 0) & (iou <= 1.0001)).all()
    assert np.allclose(np.diag(iou), 1)
