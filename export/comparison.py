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
        """Compare one frame. expected, found: float32 (K, 6), rows as in the contract, best first.

        A pair is measured once, where either side is strong; a strong row without a partner is lost or added.
        """
        self.frames += 1
        ious = iou_matrix(expected, found)
        same_class_ious = np.where(expected[:, None, CLASS_ID] == found[None, :, CLASS_ID], ious, 0)
        lost_as_tie = self._ties_in(expected, found, ious, same_class_ious)
        added_as_tie = self._ties_in(found, expected, ious.T, same_class_ious.T)
        pairs = _pairs(expected, found, same_class_ious, self.limits)
        for row, partner in pairs.items():
            if max(expected[row, CONFIDENCE], found[partner, CONFIDENCE]) < self.limits.confidence:
                continue
            if lost_as_tie[row] and added_as_tie[partner]:
                self.ties.append(f"{where}: lost {_described(expected[row])}")
                self.ties.append(f"{where}: added {_described(found[partner])}")
            else:
                self._measure(expected[row], found[partner], float(ious[row, partner]), where)
        rows, partners = list(pairs), list(pairs.values())
        free_under = _free_under(expected, found, self.limits)
        self._miss(np.delete(expected, rows, axis=0), np.delete(lost_as_tie, rows), free_under, f"{where}: lost")
        self._miss(np.delete(found, partners, axis=0), np.delete(added_as_tie, partners), free_under, f"{where}: added")

    def faults(self) -> list[str]:
        """The failures, and one more sentence if there are more ties than there may be."""
        if len(self.ties) <= self.limits.most_ties_share * self.boxes:
            return self.failures
        return [*self.failures, f"{len(self.ties)} ties among {self.boxes} boxes, first: {self.ties[0]}"]

    def _miss(self, alone: NDArray[np.float32], is_tie: NDArray[np.bool_], free_under: float, fault: str) -> None:
        """Tell of the strong rows among those without a partner. alone: float32 (K, 6). is_tie: bool (K,)."""
        for row, is_excused in zip(alone, is_tie, strict=True):
            if row[CONFIDENCE] < self.limits.confidence or row[CONFIDENCE] <= free_under:
                continue
            (self.ties if is_excused else self.failures).append(f"{fault} {_described(row)}")

    def _ties_in(
        self,
        wanted: NDArray[np.float32],
        there: NDArray[np.float32],
        ious: NDArray[np.float64],
        same_class_ious: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Whether a box as strong may have taken each row's place, but for what the limits let either move: bool (K,).

        wanted: (K, 6). there: (L, 6). ious, same_class_ious: (K, L). A row that is there itself gave up no place, so
        the second of two equal boxes is no tie.
        """
        if self.suppression_iou is None or not self.limits.most_ties_share:
            return np.zeros(len(wanted), dtype=np.bool_)
        reach = self.suppression_iou - (1 - self.limits.least_iou)
        least_rival = wanted[:, None, CONFIDENCE] - self.limits.most_confidence_move
        has_rival = ((ious >= reach) & (there[None, :, CONFIDENCE] >= least_rival)).any(axis=1)
        is_there = (same_class_ious >= self.limits.least_iou).any(axis=1)
        return np.asarray(has_rival & ~is_there)

    def _measure(self, expected: NDArray[np.float32], found: NDArray[np.float32], iou: float, where: str) -> None:
        move = abs(float(expected[CONFIDENCE]) - float(found[CONFIDENCE]))
        self.boxes += 1
        self.least_iou = min(self.least_iou, iou)
        self.most_confidence_move = max(self.most_confidence_move, move)
        if iou < self.limits.least_iou:
            self.failures.append(f"{where}: IoU {iou:.4f} of {_described(expected)}")
        if move > self.limits.most_confidence_move:
            self.failures.append(f"{where}: confidence moved by {move:.4f} of {_described(expected)}")


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


def _pairs(
    expected: NDArray[np.float32], found: NDArray[np.float32], same_class_ious: NDArray[np.float64], limits: Limits
) -> dict[int, int]:
    """Which row of `found` (L, 6) is which of `expected` (K, 6): one-to-one, by position, in the order of `expected`.

    same_class_ious: (K, L), 0 between classes; rows under SAME_BOX_IOU are never a pair. Of all pairs the one that
    differs least is taken first, judged by its IoU or its confidence, whichever uses up more of its limit. So each of
    two near-duplicates meets its own, and a pair within the limits never yields to one beyond them.
    """
    moves = np.abs(expected[:, None, CONFIDENCE] - found[None, :, CONFIDENCE])
    used_up = np.maximum((1 - same_class_ious) / (1 - limits.least_iou), moves / limits.most_confidence_move)
    rows, partners = np.nonzero(same_class_ious >= SAME_BOX_IOU)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for k in np.argsort(used_up[rows, partners], kind="stable"):
        row, partner = int(rows[k]), int(partners[k])
        if row not in pairs and partner not in taken:
            pairs[row] = partner
            taken.add(partner)
    return dict(sorted(pairs.items()))


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
