"""Where every frame went. The sums must add up: planned = inferred + failed, once a run is closed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from orchestrator.core.records import SegmentReport, SegmentResult
from orchestrator.core.types import FrameStamp, Ledger, SegmentPlan
from orchestrator.errors import DecoderError

# Warnings speak of missing or suspect frames only.
FRAMES_FAILED = "frames_failed"
FRAMES_SUSPECT = "decode_errors"


def with_segment(ledger: Ledger, result: SegmentResult) -> Ledger:
    """The run's ledger after one more segment; what was planned and skipped was known before."""
    reasons = Counter(ledger.reasons)
    reasons.update(reason for _, reason in result.report.failed)
    return replace(
        ledger,
        inferred=ledger.inferred + len(result.stamps),
        failed=ledger.failed + len(result.report.failed),
        reasons=dict(reasons),
    )


def segment_warnings(result: SegmentResult) -> tuple[str, ...]:
    """What a reader of the results must know of this segment's frames."""
    warnings = []
    if result.report.failed:
        warnings.append(FRAMES_FAILED)
    if result.report.frame_errors:
        warnings.append(FRAMES_SUSPECT)
    return tuple(warnings)


def checked_result(result: SegmentResult, plan: SegmentPlan) -> SegmentResult:
    """`result`, if every planned frame is in it exactly once. Raises DecoderError otherwise."""
    indices = [stamp.index for stamp in result.stamps] + [stamp.index for stamp, _ in result.report.failed]
    if len(indices) != plan.frame_count or len(set(indices)) != len(indices):
        raise DecoderError(
            f"segment {plan.number} has {plan.frame_count} frames, but the decoder told of {len(indices)}"
        )
    return result


def all_failed(stamps: Iterable[FrameStamp], reason: str) -> SegmentReport:
    """The report of a segment of which no frame was inferred."""
    return SegmentReport(failed=tuple((stamp, reason) for stamp in stamps))
