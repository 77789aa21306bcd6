"""What a committed segment changes in its run. Pure."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.ledger import segment_warnings, with_segment
from orchestrator.core.records import Run, SegmentResult


def committed_run(run: Run, result: SegmentResult) -> Run:
    """The run after one more of its segments is done."""
    return replace(
        run,
        segments_done=run.segments_done + 1,
        ledger=with_segment(run.ledger, result),
        seconds=run.seconds + result.seconds,
        warnings=merged(run.warnings, segment_warnings(result)),
        waiting=None,
    )


def merged(codes: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Both, in order, each code once."""
    return tuple(dict.fromkeys(codes + more))
