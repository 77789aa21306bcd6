"""What a job found, by class: the table at the end of `trireel run`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.client import FrameAnswer


@dataclass(slots=True, kw_only=True)
class ClassFinding:
    """frames: those with at least one detection of the class. Times are since the first frame of the video."""

    class_name: str
    detections: int = 0
    frames: int = 0
    first_seen_ms: float
    last_seen_ms: float
    best_confidence: float = 0.0


def findings_of(frames: Iterable[FrameAnswer]) -> list[ClassFinding]:
    """One finding a class that was found, the most frequent first. frames: in time order, each once."""
    by_class: dict[str, ClassFinding] = {}
    for frame in frames:
        for detection in frame.detections:
            name = detection.class_name
            if (finding := by_class.get(name)) is None:
                finding = ClassFinding(class_name=name, first_seen_ms=frame.pts_ms, last_seen_ms=frame.pts_ms)
                by_class[name] = finding
            finding.detections += 1
            finding.last_seen_ms = frame.pts_ms
            finding.best_confidence = max(finding.best_confidence, detection.confidence)
        for name in {detection.class_name for detection in frame.detections}:
            by_class[name].frames += 1
    return sorted(by_class.values(), key=lambda finding: (-finding.detections, finding.class_name))
