"""The proof that a served version agrees with its source network, on the same frames.

Three sides are compared: the source network in PyTorch, the served graph in ONNX Runtime, and the version as Triton
serves it. Raw heads are compared as tensors, boxes at every position of a batch, alone and in company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from export.comparison import CONFIDENCE, Comparison, Limits, compare_frames
from export.evidence import Evidence
from export.graph import expose_raw
from orchestrator.core.contract import CANDIDATES, FRAMES

Frames = NDArray[np.uint8]
Infer = Callable[[Frames], Awaitable[NDArray[np.float32]]]
# On fewer boxes an agreement says little.
ENOUGH_BOXES: Final = 50
MOST_FAILURES_TOLD: Final = 20


class Verdict(StrEnum):
    PASSED = "passed"
    WEAK = "weak"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """raw: float32 (N, 4 + classes, anchors). boxes: for each frame float32 (K, 6), rows as in the contract."""

    raw: NDArray[np.float32]
    boxes: tuple[NDArray[np.float32], ...]


@dataclass(slots=True, kw_only=True)
class RawComparison:
    """Running totals over raw heads. most_box_move_px: model px. failures: sentences, as in `Comparison`."""

    limits: Limits
    most_score_move: float = 0.0
    most_box_move_px: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, expected: NDArray[np.float32], found: NDArray[np.float32], where: str) -> None:
        """Compare a batch. expected, found: float32 (N, 4 + classes, anchors); four rows of pixels, then scores."""
        if expected.shape != found.shape:
            self.failures.append(f"{where}: the shape is {found.shape}, not {expected.shape}")
            return
        moves = np.abs(expected - found)
        box_move_px, score_move = float(moves[:, :4].max()), float(moves[:, 4:].max())
        self.most_box_move_px = max(self.most_box_move_px, box_move_px)
        self.most_score_move = max(self.most_score_move, score_move)
        # Written so that a NaN fails.
        if not score_move <= self.limits.most_raw_score_move:
            self.failures.append(f"{where}: a score differs by {score_move:.4f}")
        if not box_move_px <= self.limits.most_raw_box_move_px:
            self.failures.append(f"{where}: a box differs by {box_move_px:.2f} px")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What was compared and how far it differed. boxes: strong boxes of the source network."""

    verdict: Verdict
    reason: str
    boxes: int
    evidence: tuple[Evidence, ...]
    raw: RawComparison
    graph: Comparison
    triton: Comparison
    made_with: Mapping[str, str]

    def to_document(self) -> dict[str, object]:
        """As it is written to the version folder, JSON's types only."""
        limits = self.graph.limits
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "boxes": self.boxes,
            "evidence": [
                {
                    "name": item.name,
                    "frames": len(item.frames),
                    "height_px": item.frames.shape[1],
                    "width_px": item.frames.shape[2],
                }
                for item in self.evidence
            ],
            "raw": {"most_score_move": self.raw.most_score_move, "most_box_move_px": self.raw.most_box_move_px},
            "graph": _figures(self.graph),
            "triton": _figures(self.triton),
            "limits": {
                "precision": limits.precision.value,
                "confidence": limits.confidence,
                "border": limits.border,
                "least_iou": limits.least_iou,
                "most_confidence_move": limits.most_confidence_move,
                "most_ties_share": limits.most_ties_share,
                "most_raw_score_move": limits.most_raw_score_move,
                "most_raw_box_move_px": limits.most_raw_box_move_px,
            },
            "made_with": dict(self.made_with),
        }


def _figures(comparison: Comparison) -> dict[str, object]:
    return {
        "frames_compared": comparison.frames,
        "boxes_compared": comparison.boxes,
        "least_iou": comparison.least_iou,
        "most_confidence_move": comparison.most_confidence_move,
        "ties": len(comparison.ties),
        "failures": comparison.faults()[:MOST_FAILURES_TOLD],
    }


async def certify(
    graph: onnx.ModelProto,
    evidence: Sequence[Evidence],
    answers: Sequence[SourceAnswer],
    infer: Infer,
    *,
    limits: Limits,
    suppression_iou: float | None,
    made_with: Mapping[str, str],
) -> Certificate:
    """Compare all sides. answers: of the source network, one for each batch of evidence. infer: asks Triton.

    suppression_iou: as in `Comparison`.
    """
    raw = RawComparison(limits=limits)
    by_graph, by_triton = (Comparison(limits=limits, suppression_iou=suppression_iou) for _ in range(2))
    session = onnxruntime.InferenceSession(expose_raw(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    for item, answer in zip(evidence, answers, strict=True):
        _compare_graph(session, item, answer, raw=raw, boxes=by_graph)
        await _compare_triton(infer, item, answer, by_triton)
    boxes = sum(int((rows[:, CONFIDENCE] >= limits.confidence).sum()) for answer in answers for rows in answer.boxes)
    verdict, reason = _judge(boxes, [*raw.failures, *by_graph.faults(), *by_triton.faults()])
    return Certificate(
        verdict=verdict,
        reason=reason,
        boxes=boxes,
        evidence=tuple(evidence),
        raw=raw,
        graph=by_graph,
        triton=by_triton,
        made_with=made_with,
    )


def _judge(boxes: int, failures: Sequence[str]) -> tuple[Verdict, str]:
    if failures:
        return Verdict.FAILED, f"{len(failures)} differences, first: {failures[0]}"
    if boxes < ENOUGH_BOXES:
        return Verdict.WEAK, (
            f"only {boxes} boxes of the source network were compared, {ENOUGH_BOXES} are needed; "
            "certify with frames that show its classes (FRAMES=)"
        )
    return Verdict.PASSED, f"{boxes} boxes of the source network, and none lost, added or moved beyond the limits"


def _compare_graph(
    session: onnxruntime.InferenceSession,
    item: Evidence,
    answer: SourceAnswer,
    *,
    raw: RawComparison,
    boxes: Comparison,
) -> None:
    """In order, in reverse, and each frame alone: every frame stands at two positions at least."""
    raw_name = next(output.name for output in session.get_outputs() if output.name != CANDIDATES)
    found_raw, candidates = session.run([raw_name, CANDIDATES], {FRAMES: item.frames})
    raw.add(answer.raw, found_raw, f"raw, {item.name}")
    compare_frames(answer.boxes, candidates, boxes, f"graph, {item.name}")
    (candidates,) = session.run([CANDIDATES], {FRAMES: item.frames[::-1].copy()})
    compare_frames(answer.boxes[::-1], candidates, boxes, f"graph, {item.name} reversed")
    alone = [session.run([CANDIDATES], {FRAMES: frame[None]})[0][0] for frame in item.frames]
    compare_frames(answer.boxes, np.stack(alone), boxes, f"graph, {item.name} alone")


async def _compare_triton(infer: Infer, item: Evidence, answer: SourceAnswer, boxes: Comparison) -> None:
    """As `_compare_graph`; the single frames are asked for at once, so that Triton makes batches of them."""
    compare_frames(answer.boxes, await infer(item.frames), boxes, f"Triton, {item.name}")
    compare_frames(answer.boxes[::-1], await infer(item.frames[::-1].copy()), boxes, f"Triton, {item.name} reversed")
    alone = await asyncio.gather(*(infer(frame[None]) for frame in item.frames))
    compare_frames(answer.boxes, np.concatenate(alone), boxes, f"Triton, {item.name} batched by Triton")
