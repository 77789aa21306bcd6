"""What a certificate calls different, and what it lets pass."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from export.comparison import Comparison, Limits, compare_frames, iou_matrix

CAR = [10.0, 10.0, 110.0, 60.0, 0.9, 2.0]
PERSON = [200.0, 20.0, 240.0, 120.0, 0.6, 0.0]


def rows(*boxes: list[float]) -> NDArray[np.float32]:
    return np.array(boxes, dtype=np.float32).reshape(-1, 6)


def changed(box: list[float], **moves: float) -> list[float]:
    names = ("x1", "y1", "x2", "y2", "confidence", "class_id")
    return [value + moves.get(name, 0.0) for name, value in zip(names, box, strict=True)]


def failures(expected: NDArray[np.float32], found: NDArray[np.float32]) -> list[str]:
    comparison = Comparison(limits=Limits())
    comparison.add(expected, found, "here")
    return comparison.failures


def test_equal_rows_pass_and_are_counted() -> None:
    comparison = Comparison(limits=Limits())
    comparison.add(rows(CAR, PERSON), rows(CAR, PERSON), "here")
    assert (comparison.failures, comparison.boxes, comparison.frames) == ([], 2, 1)
    assert (comparison.least_iou, comparison.most_confidence_move) == (1.0, 0.0)


def test_rows_may_come_in_another_order() -> None:
    assert failures(rows(CAR, PERSON), rows(PERSON, CAR)) == []


def test_a_lost_box_fails() -> None:
    assert failures(rows(CAR, PERSON), rows(CAR)) == [
        "here: lost class 0 at (200.0, 20.0, 240.0, 120.0) with confidence 0.600"
    ]


def test_an_added_box_fails() -> None:
    assert failures(rows(CAR), rows(CAR, PERSON))[0].startswith("here: added class 0")


def test_a_box_of_another_class_is_lost_and_added() -> None:
    assert len(failures(rows(CAR), rows(changed(CAR, class_id=1.0)))) == 2


@pytest.mark.parametrize(("shift_px", "is_same"), [(0.2, True), (2.0, False)])
def test_a_moved_box_fails_under_iou_099(shift_px: float, is_same: bool) -> None:
    found = failures(rows(CAR), rows(changed(CAR, x1=shift_px, x2=shift_px)))
    assert (found == []) is is_same


@pytest.mark.parametrize(("move", "is_same"), [(0.004, True), (-0.004, True), (0.006, False), (-0.006, False)])
def test_a_moved_confidence_fails_over_0005(move: float, is_same: bool) -> None:
    assert (failures(rows(CAR), rows(changed(CAR, confidence=move))) == []) is is_same


@pytest.mark.parametrize(("confidence", "is_free"), [(0.2499, True), (0.2549, True), (0.2551, False)])
def test_boxes_at_the_threshold_may_fall_on_either_side(confidence: float, is_free: bool) -> None:
    box = [*CAR[:4], confidence, 2.0]
    assert (failures(rows(box), rows()) == []) is is_free
    assert (failures(rows(), rows(box)) == []) is is_free


def test_a_full_frame_may_end_with_other_boxes() -> None:
    strong = [[20.0 * k, 0.0, 20.0 * k + 10, 10.0, 0.9, 0.0] for k in range(299)]
    last, other = [0.0, 50.0, 10.0, 60.0, 0.5, 0.0], [30.0, 50.0, 40.0, 60.0, 0.502, 0.0]
    assert failures(rows(*strong, last), rows(*strong, other)) == []
    assert failures(rows(*strong, last), rows(*strong[1:], other)) != []


def test_every_position_of_a_batch_is_compared() -> None:
    candidates = np.zeros((3, 300, 6), dtype=np.float32)
    candidates[0, :1] = candidates[1, :1] = rows(CAR)
    comparison = Comparison(limits=Limits())
    compare_frames([rows(CAR)] * 3, candidates, comparison, "graph")
    assert [sentence.partition(":")[0] for sentence in comparison.failures] == ["graph, position 2"]


def test_a_missing_answer_fails() -> None:
    comparison = Comparison(limits=Limits())
    compare_frames([rows(CAR)] * 3, np.zeros((2, 300, 6), dtype=np.float32), comparison, "Triton")
    assert comparison.failures == ["Triton: 3 frames went in, 2 came out"]


def test_iou_is_shared_over_covered_area() -> None:
    ious = iou_matrix(rows([0, 0, 10, 10, 1, 0]), rows([0, 0, 10, 10, 1, 0], [5, 0, 15, 10, 1, 0], [0, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(ious, [[1, 1 / 3, 0]])


def test_a_box_with_its_corners_swapped_covers_the_same_area() -> None:
    swapped = [*CAR[2:4], *CAR[:2], *CAR[4:]]
    assert failures(rows(swapped), rows(swapped)) == []
