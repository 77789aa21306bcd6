"""The table of what was found, from frames."""

from __future__ import annotations

from orchestrator.cli.findings import findings_of
from orchestrator.client import FrameAnswer
from orchestrator.client.calls import reading
from tests.support.api_documents import frame_json


def frames(*documents: dict[str, object]) -> list[FrameAnswer]:
    import json

    return [reading(FrameAnswer)(json.dumps(document).encode()) for document in documents]


def test_each_class_is_counted_with_its_first_and_last_sight() -> None:
    (person, car) = findings_of(
        frames(
            frame_json(0),
            frame_json(1, ("person", 0.5), ("person", 0.25), ("car", 0.9)),
            frame_json(2, ("person", 0.75)),
            frame_json(3),
        )
    )
    assert (person.class_name, person.detections, person.frames) == ("person", 3, 2)
    assert (person.first_seen_ms, person.last_seen_ms, person.best_confidence) == (100.0, 200.0, 0.75)
    assert (car.class_name, car.detections, car.frames, car.last_seen_ms) == ("car", 1, 1, 100.0)


def test_nothing_found_is_no_finding() -> None:
    assert findings_of(frames(frame_json(0), frame_json(1))) == []


def test_equally_frequent_classes_are_in_order_of_their_names() -> None:
    found = findings_of(frames(frame_json(0, ("person", 0.5), ("car", 0.5))))
    assert [finding.class_name for finding in found] == ["car", "person"]
