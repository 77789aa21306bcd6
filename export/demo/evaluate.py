"""Measures detections against a scene's truth: average precision, written out plainly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.comparison import CLASS_ID, CONFIDENCE, iou_matrix
from export.demo.scene import CLASS_NAMES, FrameTruth


def mean_average_precision(
    found: Sequence[NDArray[np.float32]], truths: Sequence[FrameTruth], *, least_iou: float = 0.5
) -> float:
    """The mean over the classes that occur. found: for each frame float32 (K, 6), boxes in px of the frame."""
    classes = [number for number in range(len(CLASS_NAMES)) if any(number in truth.class_ids for truth in truths)]
    return float(np.mean([average_precision(found, truths, number, least_iou=least_iou) for number in classes]))


def average_precision(
    found: Sequence[NDArray[np.float32]], truths: Sequence[FrameTruth], class_id: int, *, least_iou: float
) -> float:
    """Area under the curve of precision over recall, with precision made falling."""
    confidences: list[float] = []
    hits: list[bool] = []
    for rows, truth in zip(found, truths, strict=True):
        of_class = rows[rows[:, CLASS_ID] == class_id]
        confidences += of_class[:, CONFIDENCE].tolist()
        hits += _hits(of_class, truth.boxes_xyxy[truth.class_ids == class_id], least_iou)
    wanted = sum(int((truth.class_ids == class_id).sum()) for truth in truths)
    best_first = np.argsort(-np.array(confidences), kind="stable")
    hit_count = np.cumsum(np.array(hits, dtype=bool)[best_first])
    recall = hit_count / wanted
    precision = hit_count / np.arange(1, len(hit_count) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))


def _hits(rows: NDArray[np.float32], boxes: NDArray[np.float32], least_iou: float) -> list[bool]:
    """Which rows of one frame and class, best first, find a box that none before them has found."""
    ious = iou_matrix(rows, boxes)
    hits = []
    for overlaps in ious:
        best = int(overlaps.argmax()) if len(overlaps) else -1
        is_hit = best >= 0 and bool(overlaps[best] >= least_iou)
        hits.append(is_hit)
        if is_hit:
            ious[:, best] = 0
    return hits
