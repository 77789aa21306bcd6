"""What a certificate calls different, and what it lets pass."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from export.comparison import FLOAT16, FLOAT32, LIMITS, Comparison, compare_frames, iou_matrix
from export.spec import Precision

CAR = [10.0, 10.0, 110.0, 60.0, 0.9, 2.0]
PERSON = [200.0, 20.0, 240.0, 120.0, 0.6, 0.0]


def rows(*boxes: list[float]) -> NDArray[np.float32]:
    return np.array(boxes, dtype=np.float32).reshape(-1, 6)


def changed(box: list[float], **moves: float) -> list[float]:
    names = ("x1", "y1", "x2", "y2", "confidence", "class_id")
    return [value + moves.get(name, 0.0) for name, value in zip(names, box, strict=True)]


def failures(expected: NDArray[np.float32], found: NDArray[np.float32]) -> list[str]:
    comparison = Comparison(limits=FLOAT32)
    comparison.add(expected, found, "here")
    return comparison.failures


def test_equal_rows_pass_and_are_counted() -> None:
    comparison = Comparison(limits=FLOAT32)
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


@pytest.mark.parametrize(("before", "after"), [(0.2, 0.6), (0.6, 0.2), (0.2, 0.256), (0.3, 0.24)])
def test_a_box_that_crosses_the_threshold_from_afar_fails(before: float, after: float) -> None:
    comparison = Comparison(limits=FLOAT32)
    comparison.add(rows([*CAR[:4], before, 2.0]), rows([*CAR[:4], after, 2.0]), "here")
    assert comparison.failures == [
        f"here: confidence moved by {abs(after - before):.4f} "
        f"of class 2 at (10.0, 10.0, 110.0, 60.0) with confidence {before:.3f}"
    ]
    assert comparison.boxes == 1


@pytest.mark.parametrize(("before", "after"), [(0.248, 0.252), (0.252, 0.248), (0.2451, 0.25), (0.2545, 0.2499)])
def test_a_box_that_crosses_the_threshold_by_less_than_the_border_passes(before: float, after: float) -> None:
    assert failures(rows([*CAR[:4], before, 2.0]), rows([*CAR[:4], after, 2.0])) == []


def test_a_weak_box_that_becomes_strong_elsewhere_than_it_was_fails() -> None:
    weak = [*CAR[:4], 0.249, 2.0]
    assert failures(rows(weak), rows(changed(weak, confidence=0.002, x1=2.0, x2=2.0)))[0].startswith("here: IoU 0.96")


def test_weak_boxes_may_differ_by_anything() -> None:
    weak = [*CAR[:4], 0.1, 2.0]
    assert failures(rows(CAR, weak), rows(CAR, changed(weak, confidence=0.1, x2=5.0))) == []


def test_every_box_given_twice_is_added_once() -> None:
    comparison = Comparison(limits=FLOAT32)
    comparison.add(rows(CAR, PERSON), rows(CAR, CAR, PERSON, PERSON), "here")
    assert [sentence.partition(" at")[0] for sentence in comparison.failures] == [
        "here: added class 2",
        "here: added class 0",
    ]
    assert comparison.boxes == 2


# End-to-end heads suppress nothing, so one thing may have two boxes.
NEAR_CAR = changed(CAR, x2=0.5, confidence=-0.2)


def test_of_two_near_identical_boxes_with_one_partner_the_other_is_lost() -> None:
    assert failures(rows(CAR, NEAR_CAR), rows(CAR)) == [
        "here: lost class 2 at (10.0, 10.0, 110.5, 60.0) with confidence 0.700"
    ]
    assert failures(rows(CAR, NEAR_CAR), rows(NEAR_CAR))[0].startswith(
        "here: lost class 2 at (10.0, 10.0, 110.0, 60.0)"
    )


@pytest.mark.parametrize("x2", [0.5, 5.0, 0.0])
def test_near_identical_boxes_on_both_sides_may_come_in_another_order(x2: float) -> None:
    near, third = changed(CAR, x2=x2, confidence=-0.2), changed(CAR, x2=2 * x2, confidence=-0.4)
    comparison = Comparison(limits=FLOAT32)
    comparison.add(rows(CAR, near, third), rows(third, CAR, near), "here")
    assert (comparison.failures, comparison.boxes, comparison.most_confidence_move) == ([], 3, 0.0)


def test_near_identical_boxes_that_change_places_within_the_limits_meet_by_confidence() -> None:
    found = rows([*NEAR_CAR[:4], CAR[4], 2.0], [*CAR[:4], NEAR_CAR[4], 2.0])
    assert failures(rows(CAR, NEAR_CAR), found) == []


def test_near_identical_boxes_that_are_as_strong_meet_by_place() -> None:
    near = changed(CAR, x2=5.0)
    assert failures(rows(CAR, near), rows(changed(near, confidence=0.001), changed(CAR, confidence=-0.001))) == []


def test_a_weak_box_takes_no_partner_from_a_strong_one() -> None:
    weak = [*CAR[:4], 0.1, 2.0]
    nudged = changed(CAR, x2=0.1, confidence=0.001)
    assert failures(rows(CAR, weak), rows(nudged)) == []
    assert failures(rows(nudged), rows(CAR, weak)) == []


def test_a_full_frame_may_end_with_other_boxes() -> None:
    strong = [[20.0 * k, 0.0, 20.0 * k + 10, 10.0, 0.9, 0.0] for k in range(299)]
    last, other = [0.0, 50.0, 10.0, 60.0, 0.5, 0.0], [30.0, 50.0, 40.0, 60.0, 0.502, 0.0]
    assert failures(rows(*strong, last), rows(*strong, other)) == []
    assert failures(rows(*strong, last), rows(*strong[1:], other)) != []


def test_every_position_of_a_batch_is_compared() -> None:
    candidates = np.zeros((3, 300, 6), dtype=np.float32)
    candidates[0, :1] = candidates[1, :1] = rows(CAR)
    comparison = Comparison(limits=FLOAT32)
    compare_frames([rows(CAR)] * 3, candidates, comparison, "graph")
    assert [sentence.partition(":")[0] for sentence in comparison.failures] == ["graph, position 2"]


def test_a_missing_answer_fails() -> None:
    comparison = Comparison(limits=FLOAT32)
    compare_frames([rows(CAR)] * 3, np.zeros((2, 300, 6), dtype=np.float32), comparison, "Triton")
    assert comparison.failures == ["Triton: 3 frames went in, 2 came out"]


def test_iou_is_shared_over_covered_area() -> None:
    ious = iou_matrix(rows([0, 0, 10, 10, 1, 0]), rows([0, 0, 10, 10, 1, 0], [5, 0, 15, 10, 1, 0], [0, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(ious, [[1, 1 / 3, 0]])


def test_a_box_with_its_corners_swapped_covers_the_same_area() -> None:
    swapped = [*CAR[2:4], *CAR[:2], *CAR[4:]]
    assert failures(rows(swapped), rows(swapped)) == []


# Limits and ties of float16.

BIKE = [10.0, 10.0, 50.0, 40.0, 0.5, 1.0]


def compared_as_half(
    expected: NDArray[np.float32], found: NDArray[np.float32], *, suppression_iou: float | None = 0.7
) -> Comparison:
    """One frame with the boxes in question, and 100 others that are the same on both sides."""
    others = rows(*[[60.0 * k, 500.0, 60.0 * k + 50, 550.0, 0.9, 0.0] for k in range(100)])
    comparison = Comparison(limits=FLOAT16, suppression_iou=suppression_iou)
    comparison.add(np.concatenate([expected, others]), np.concatenate([found, others]), "here")
    return comparison


def test_every_precision_has_limits_and_those_of_float32_are_the_issues() -> None:
    assert set(LIMITS) == set(Precision)
    assert all(limits.precision is precision for precision, limits in LIMITS.items())
    assert (FLOAT32.confidence, FLOAT32.border, FLOAT32.least_iou) == (0.25, 0.005, 0.99)
    assert (FLOAT32.most_confidence_move, FLOAT32.most_ties_share) == (0.005, 0.0)


@pytest.mark.parametrize("change", [{"confidence": 0.015}, {"x2": 1.5}, {"y1": -0.5, "y2": 0.5}])
def test_float16_may_differ_by_more_than_float32(change: dict[str, float]) -> None:
    found = rows(changed(CAR, **change))
    assert failures(rows(CAR), found) != []
    comparison = compared_as_half(rows(CAR), found)
    assert (comparison.faults(), comparison.ties) == ([], [])


@pytest.mark.parametrize("change", [{"confidence": -0.03}, {"confidence": -0.7}, {"x1": 40.0, "x2": 40.0}])
def test_float16_may_not_differ_by_anything(change: dict[str, float]) -> None:
    assert compared_as_half(rows(BIKE), rows(changed(BIKE, **change))).faults() != []


@pytest.mark.parametrize("confidence", [0.49, 0.51])
def test_another_box_of_the_same_thing_is_a_tie_where_both_are_as_strong(confidence: float) -> None:
    rival = [10.0, 10.0, 50.0, 46.0, confidence, 1.0]
    comparison = compared_as_half(rows(BIKE), rows(rival))
    assert (len(comparison.ties), comparison.faults()) == (2, [])


def test_a_box_that_suppression_kept_beside_a_stronger_one_is_a_tie() -> None:
    stronger = [10.0, 10.0, 50.0, 53.0, 0.9, 1.0]
    for expected, found in ((rows(stronger, BIKE), rows(stronger)), (rows(stronger), rows(stronger, BIKE))):
        comparison = compared_as_half(expected, found)
        assert (len(comparison.ties), comparison.faults()) == (1, [])


def test_another_class_of_the_same_box_is_a_tie_where_both_are_as_strong() -> None:
    assert compared_as_half(rows(BIKE), rows(changed(BIKE, class_id=2.0, confidence=0.01))).faults() == []
    assert compared_as_half(rows(BIKE), rows(changed(BIKE, class_id=2.0, confidence=-0.1))).faults() != []


def test_a_box_given_twice_is_no_tie() -> None:
    for expected, found in ((rows(BIKE), rows(BIKE, BIKE)), (rows(BIKE, BIKE), rows(BIKE))):
        comparison = compared_as_half(expected, found)
        assert (len(comparison.failures), comparison.ties) == (1, [])


def test_a_much_stronger_box_in_another_place_is_no_tie() -> None:
    rival = [10.0, 10.0, 50.0, 46.0, 0.6, 1.0]
    for expected, found in ((BIKE, rival), (rival, BIKE)):
        comparison = compared_as_half(rows(expected), rows(found))
        assert (len(comparison.failures), comparison.ties) == (2, [])


def test_where_nothing_is_suppressed_there_are_no_ties() -> None:
    rival = [10.0, 10.0, 50.0, 46.0, 0.5, 1.0]
    assert compared_as_half(rows(BIKE), rows(rival), suppression_iou=None).faults() != []


def test_float32_knows_no_ties() -> None:
    comparison = Comparison(limits=FLOAT32, suppression_iou=0.7)
    comparison.add(rows(BIKE), rows([10.0, 10.0, 50.0, 46.0, 0.5, 1.0]), "here")
    assert comparison.ties == []
    assert comparison.faults() != []


def test_more_ties_than_chance_makes_are_a_fault() -> None:
    boxes = [[60.0 * k, 10.0, 60.0 * k + 50, 50.0, 0.5, 0.0] for k in range(40)]
    larger = [[*box[:3], box[3] + 8.0, *box[4:]] for box in boxes]
    comparison = compared_as_half(rows(*boxes), rows(*larger))
    assert comparison.failures == []
    assert comparison.faults()[0].startswith("80 ties among 100 boxes, first: here: lost class 0")
