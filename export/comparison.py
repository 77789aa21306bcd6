"""Judges whether two sets of boxes are the same detections: pure, on what one frame gave on either side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.contract import DEFAULT_CONFIDENCE, MAX_CANDIDATES

CONFIDENCE: Final = 4
CLASS_ID: Final = 5
# Boxes that overlap less are not the same box, moved; suppression leaves no two of a class nearer than 0.7.
SAME_BOX_IOU: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may differ. confidence: boxes at or over it count. border: how near to it a box is nobody's fault."""

    confidence: float = DEFAULT_CONFIDENCE
    border: float = 0.005
    least_iou: float = 0.99
    most_confidence_move: float = 0.005
    most_raw_score_move: float = 0.005
    most_raw_box_move_px: float = 0.5


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Running totals over frames. failures: sentences, one for each thing that differs more than it may."""

    limits: Limits
    frames: int = 0
    boxes: int = 0
    least_iou: float = 1.0
    most_confidence_move: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, expected: NDArray[np.float32], found: NDArray[np.float32], where: str) -> None:
        """Compare one frame. expected, found: float32 (K, 6), rows as in the contract, best first."""
        self.frames += 1
        self._look_for(expected, found, f"{where}: lost", is_measured=True)
        self._look_for(found, expected, f"{where}: added", is_measured=False)

    def _look_for(
        self, wanted: NDArray[np.float32], there: NDArray[np.float32], fault: str, *, is_measured: bool
    ) -> None:
        """Find each strong row of `wanted` in `there`; rows are measured once, from the expected side."""
        free_under = _free_under(wanted, there, self.limits)
        ious = iou_matrix(wanted, there)
        ious[wanted[:, CLASS_ID, None] != there[None, :, CLASS_ID]] = 0
        for row, overlaps in zip(wanted, ious, strict=True):
            if row[CONFIDENCE] < self.limits.confidence:
                continue
            best = int(overlaps.argmax()) if len(overlaps) else -1
            if best < 0 or overlaps[best] < SAME_BOX_IOU:
                if row[CONFIDENCE] > free_under:
                    self.failures.append(f"{fault} {_described(row)}")
            elif is_measured:
                self._measure(row, there[best], float(overlaps[best]), fault.removesuffix(" lost"))

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
