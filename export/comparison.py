"""Judges whether two sets of boxes are the same detections: pure, on what one frame gave on either side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.spec import Precision
from orchestrator.core.contract import DEFAULT_CONFIDENCE, MAX_CANDIDATES

CONFIDENCE: Final = 4
CLASS_ID: Final = 5
# Boxes that overlap less are not the same box, moved; suppression leaves no two of a class nearer than 0.7.
SAME_BOX_IOU: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may differ. confidence: boxes at or over it count. border: how near to it a box is nobody's fault.

    most_ties_share: how many ties there may be, as a share of the boxes compared; a box that was exchanged for another
    gives two, one from each side. See `Comparison`.
    """

    precision: Precision
    confidence: float = DEFAULT_CONFIDENCE
    border: float
    least_iou: float
    most_confidence_move: float
    most_ties_share: float
    most_raw_score_move: float
    most_raw_box_move_px: float


FLOAT32: Final = Limits(
    precision=Precision.FLOAT32,
    border=0.005,
    least_iou=0.99,
    most_confidence_move=0.005,
    most_ties_share=0.0,
    most_raw_score_move=0.005,
    most_raw_box_move_px=0.5,
)
# Float16 keeps 11 bits: each of some 70 layers rounds off up to 0.05 %, which adds up to about 0.4 %. That is 0.02 of
# a logit of 5, at most 0.005 of a score, and 1 or 2 % of a box's area. Measured with yolo11n and COCO weights, on
# Ultralytics' pictures and 64 frames of two videos with their mosaics, 664 boxes, compared once each:
#   ONNX Runtime on a CPU, float32 within and between layers: IoU 0.996 and one tie, confidence 0.001, raw 0.006, 4.2 px
#   PyTorch, rounded after every layer as on a GPU:           IoU 0.964, no tie, confidence 0.005, raw 0.070, 13.0 px
# The raw figures are those of a few anchors between two things, and of weak ones whose boxes reach across the frame.
FLOAT16: Final = Limits(
    precision=Precision.FLOAT16,
    border=0.02,
    least_iou=0.95,
    most_confidence_move=0.02,
    most_ties_share=0.05,
    most_raw_score_move=0.1,
    most_raw_box_move_px=20.0,
)
LIMITS: Final[Mapping[Precision, Limits]] = {limits.precision: limits for limits in (FLOAT32, FLOAT16)}


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Running totals over frames. failures: sentences, one for each thing that differs more than it may.

    ties: sentences on boxes that float16 exchanged for another of the same thing, or moved as far as that one. Of two
    boxes that overlap more than `suppression_iou` (None: nothing is suppressed) only the stronger is kept, and where
    they are as strong, or overlap just so, the last bits decide; so do they between two classes of one box. Few of them
    are nobody's fault.
    """

    limits: Limits
    suppression_iou: float | None = None
    frames: int = 0
    boxes: int = 0
    least_iou: float = 1.0
    most_confidence_move: float = 0.0
    failures: list[str] = field(default_factory=list)
    ties: list[str] = field(default_factory=list)

    def add(self, expected: NDArray[np.float32], found: NDArray[np.float32], where: str) -> None:
        """Compare one frame. expected, found: float32 (K, 6), rows as in the contract, best first."""
        self.frames += 1
        self._look_for(expected, found, f"{where}: lost", is_measured=True)
        self._look_for(found, expected, f"{where}: added", is_measured=False)

    def faults(self) -> list[str]:
        """The failures, and one more sentence if there are more ties than there may be."""
        if len(self.ties) <= self.limits.most_ties_share * self.boxes:
            return self.failures
        return [*self.failures, f"{len(self.ties)} ties among {self.boxes} boxes, first: {self.ties[0]}"]

    def _look_for(
        self, wanted: NDArray[np.float32], there: NDArray[np.float32], fault: str, *, is_measured: bool
    ) -> None:
        """Find each strong row of `wanted` in `there`; rows are measured once, from the expected side."""
        free_under = _free_under(wanted, there, self.limits)
        ious = iou_matrix(wanted, there)
        same_class_ious = np.where(wanted[:, CLASS_ID, None] == there[None, :, CLASS_ID], ious, 0)
        for row, overlaps, all_overlaps in zip(wanted, same_class_ious, ious, strict=True):
            if row[CONFIDENCE] < self.limits.confidence:
                continue
            iou = float(overlaps.max(initial=0.0))
            is_missing = iou < SAME_BOX_IOU
            if is_missing and row[CONFIDENCE] <= free_under:
                continue
            if iou < self.limits.least_iou and self._is_tie(row, all_overlaps, there):
                self.ties.append(f"{fault} {_described(row)}")
            elif is_missing:
                self.failures.append(f"{fault} {_described(row)}")
            elif is_measured:
                self._measure(row, there[overlaps.argmax()], iou, fault.removesuffix(" lost"))

    def _is_tie(self, row: NDArray[np.float32], overlaps: NDArray[np.float64], there: NDArray[np.float32]) -> bool:
        """Whether a box as strong as `row` may have taken its place, but for what the limits let either move."""
        if self.suppression_iou is None or not self.limits.most_ties_share:
            return False
        reach = self.suppression_iou - (1 - self.limits.least_iou)
        rivals = there[overlaps >= reach, CONFIDENCE]
        return bool((rivals >= row[CONFIDENCE] - self.limits.most_confidence_move).any())

    def _measure(self, expected: NDArray[np.float32], found: NDArray[np.float32], iou: float, where: str) -> None:
        move = abs(float(expected[CONFIDENCE]) - float(found[CONFIDENCE]))
        self.boxes += 1
        self.least_iou = min(self.least_iou, iou)
        self.most_confidence_move = max(self.most_confidence_move, move)
        if iou < self.limits.least_iou:
            self.failures.append(f"{where} IoU {iou:.4f} of {_described(expected)}")
        if move > self.limits.most_confidence_move:
            self.failures.append(f"{where} confidence moved by {move:.4f} of {_described(expected)}")


def compare_frames(
    expected: Sequence[NDArray[np.float32]], candidates: NDArray[np.float32], into: Comparison, where: str
) -> None:
    """Compare a batch at every position. candidates: float32 (N, 300, 6); expected: N sets of rows."""
    if len(expected) != len(candidates):
        into.failures.append(f"{where}: {len(expected)} frames went in, {len(candidates)} came out")
        return
    for position, (rows, answer) in enumerate(zip(expected, candidates, strict=True)):
        into.add(rows, answer[answer[:, CONFIDENCE] > 0], f"{where}, position {position}")


def iou_matrix(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of each row of (K, 4 or more) with each of (L, 4 or more): float64 (K, L)."""
    a, b = _upright(left)[:, None], _upright(right)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _upright(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Boxes (K, 4) whose first corner is the upper left: on noise YOLO26, which has no DFL, may answer others."""
    corners = rows[:, :4].astype(np.float64).reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _free_under(wanted: NDArray[np.float32], there: NDArray[np.float32], limits: Limits) -> float:
    """Confidence up to which a missing row is nobody's fault: the threshold's border, or the last row's if full."""
    lowest = limits.confidence
    for rows in (wanted, there):
        if len(rows) >= MAX_CANDIDATES:
            lowest = max(lowest, float(rows[:, CONFIDENCE].min()))
    return lowest + limits.border


def _described(row: NDArray[np.float32]) -> str:
    corners = ", ".join(f"{value:.1f}" for value in row[:4])
    return f"class {row[CLASS_ID]:.0f} at ({corners}) with confidence {row[CONFIDENCE]:.3f}"
