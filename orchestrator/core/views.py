"""Views: questions asked of stored candidates.

Raising the confidence is exact, because a weaker box never suppresses a stronger one. A stricter IoU is a
second suppression over the survivors of the first, and is labelled as such. What was not stored is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.contract import ModelCard
from orchestrator.core.types import Candidates, View
from orchestrator.errors import ClassUnknownError, ThresholdNotStoredError


def class_ids_of(names: Sequence[str], card: ModelCard) -> frozenset[int]:
    """Ids of classes given by name or by id. A name wins over an id of the same spelling.

    Raises ClassUnknownError, naming every unknown one.
    """
    by_name = {name: class_id for class_id, name in enumerate(card.class_names)}
    by_id = {str(class_id): class_id for class_id in range(len(card.class_names))}
    wanted = [name.strip() for name in names]
    unknown = [name for name in wanted if name not in by_name and name not in by_id]
    if unknown:
        some = ", ".join(card.class_names[:10]) + (", ..." if len(card.class_names) > 10 else "")
        raise ClassUnknownError(f"the model has no class {', '.join(map(repr, unknown))}; it has {some}")
    return frozenset(by_name.get(name, by_id.get(name, -1)) for name in wanted)


def checked_view(view: View, card: ModelCard) -> View:
    """`view`, if what it asks for was stored under `card`. Raises ThresholdNotStoredError."""
    if view.min_confidence < card.floor:
        raise ThresholdNotStoredError(
            f"boxes under confidence {card.floor} are not stored; ask for conf {card.floor} or more, "
            "or publish a version with a lower floor"
        )
    if view.iou > card.iou:
        raise ThresholdNotStoredError(
            f"boxes were suppressed at IoU {card.iou}; ask for iou {card.iou} or less, "
            "or publish a version with a higher one"
        )
    return view


def suppresses_again(view: View, card: ModelCard) -> bool:
    """Whether the view's IoU is stricter than the one in the graph."""
    return view.iou < card.iou


def apply_view(candidates: Candidates, view: View, card: ModelCard) -> Candidates:
    """The detections: candidates that the view lets through, in the same order (frame by frame, best first)."""
    keep = candidates.confidence >= np.float32(view.min_confidence)
    if view.class_ids is not None:
        keep &= np.isin(candidates.class_ids, np.fromiter(view.class_ids, dtype=np.int16, count=len(view.class_ids)))
    shown = candidates.take(keep)
    if suppresses_again(view, card):
        shown = shown.take(_survivors(shown, view.iou))
    return shown.take(_rank_in_frame(shown.frame_index) < view.max_det)


def _rank_in_frame(frame_index: NDArray[np.int32]) -> NDArray[np.int64]:
    """Position (K,) of each row among the rows of its frame; rows of a frame are neighbours."""
    positions = np.arange(len(frame_index))
    if not len(frame_index):
        return positions
    is_first = np.concatenate([[True], frame_index[1:] != frame_index[:-1]])
    return np.asarray(positions - np.maximum.accumulate(np.where(is_first, positions, 0)), dtype=np.int64)


def _survivors(candidates: Candidates, iou: float) -> NDArray[np.bool_]:
    """Mask (K,) of greedy suppression within each frame and class."""
    keep = np.ones(len(candidates), dtype=np.bool_)
    if not len(candidates):
        return keep
    changes = np.flatnonzero(np.diff(candidates.frame_index)) + 1
    for rows in np.split(np.arange(len(candidates)), changes):
        same_class = candidates.class_ids[rows, None] == candidates.class_ids[None, rows]
        overlaps = (pairwise_iou(candidates.boxes_xyxy[rows], candidates.boxes_xyxy[rows]) > iou) & same_class
        for best in range(len(rows)):
            if keep[rows[best]]:
                keep[rows[best + 1 :][overlaps[best, best + 1 :]]] = False
    return keep


def pairwise_iou(a_xyxy: NDArray[np.float32], b_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union (A, B) of boxes (A, 4) and (B, 4); 0 where the union has no area."""
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a = np.prod(a_xyxy[:, 2:] - a_xyxy[:, :2], axis=1)
    area_b = np.prod(b_xyxy[:, 2:] - b_xyxy[:, :2], axis=1)
    union = area_a[:, None] + area_b[None, :] - intersection
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(union), where=union > 0), dtype=np.float32)
