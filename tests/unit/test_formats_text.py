"""JSON, ndjson and CSV: what they hold, how it is rounded, and what a spreadsheet would make of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.rendering import detection_objects
from orchestrator.core.types import Candidates
from orchestrator.errors import FormatUnknownError
from orchestrator.formats.csv_text import text_cell
from orchestrator.formats.detection_text import DetectionText, write_detections
from orchestrator.formats.format_table import FORMATS, format_named
from orchestrator.formats.json_text import FrameLine
from orchestrator.formats.rows import Detection
from orchestrator.results import DetectionBlock, ResultHeader, ViewRequest
from orchestrator.testing.fake_model import FakeModelCatalogue
from orchestrator.testing.fake_reader import GeneratedVideo
from tests.support.process import Process
from tests.support.web_process import CLASS_NAMES, yolo


def four_frames() -> Candidates:
    """Frames 0..3: a car and a person in frame 0, nothing in 1, a weak car in 2, an oddly named thing in 3."""
    return Candidates(
        frame_index=np.array([0, 0, 2, 3], np.int32),
        pts_ms=np.array([0.0, 0.0, 80.0, 120.0004]),
        class_ids=np.array([1, 0, 1, 2], np.int16),
        confidence=np.array([0.912345678, 0.5, 0.1, 0.3], np.float32),
        boxes_xyxy=np.array([[1.234, 2, 3, 4.5], [10, 20, 30, 40], [5, 6, 7, 8], [0, 0, 640, 360]], np.float32),
    )


async def result(request: ViewRequest) -> tuple[ResultHeader, AsyncIterator[DetectionBlock]]:
    """Of a finished job over `four_frames`, of which 1 gave no picture."""
    video = GeneratedVideo(frame_count=4, failing={1: "decode_error"})
    process = Process(video=video, catalogue=FakeModelCatalogue([yolo()]))
    job = (await process.submit(model="yolo11n")).job
    await process.work_until_idle()
    process.stores.archive.runs[job.run_id] = four_frames()
    return await process.results.open(job.id, request)


async def text_of(name: str, request: ViewRequest | None = None) -> str:
    header, blocks = await result(request or ViewRequest(min_confidence=0.05))
    return b"".join([piece async for piece in format_named(name).encode(header, blocks)]).decode()


async def test_json_is_one_document_with_head_detections_and_failed_frames() -> None:
    document = json.loads(await text_of("json"))
    assert document["job_id"] == "job_1"
    assert document["view"] == {"conf": 0.05, "iou": 0.7, "classes": None, "max_det": 300}
    assert (document["is_complete"], document["complete_through_frame"]) == (True, 3)
    assert document["frame_count"] == 4
    assert document["failed_frames"] == [{"frame_index": 1, "pts_ms": 40.0, "reason": "decode_error"}]
    assert [found["frame_index"] for found in document["detections"]] == [0, 0, 2, 3]
    assert document["detections"][0] == {
        "frame_index": 0,
        "pts_ms": 0.0,
        "class_id": 1,
        "class_name": "car",
        "confidence": 0.91235,
        "xyxy": [1.23, 2.0, 3.0, 4.5],
    }


async def test_json_without_one_detection_is_a_document_too() -> None:
    document = json.loads(await text_of("json", ViewRequest(min_confidence=0.99)))
    assert (document["detections"], document["frame_count"]) == ([], 4)


async def test_ndjson_has_a_line_for_every_sampled_frame() -> None:
    head, *lines = (await text_of("ndjson")).splitlines()
    assert json.loads(head)["class_names"] == list(CLASS_NAMES)
    frames = [msgspec.json.decode(line, type=FrameLine) for line in lines]
    assert [frame.frame_index for frame in frames] == [0, 1, 2, 3]
    assert [len(frame.detections) for frame in frames] == [2, 0, 1, 1]
    assert [frame.failed for frame in frames] == [None, "decode_error", None, None]
    assert "failed" not in json.loads(lines[0])
    assert [found.class_name for found in frames[0].detections] == ["car", "person"]


async def test_both_json_formats_hold_the_same_detections() -> None:
    _, *frames = [json.loads(line) for line in (await text_of("ndjson")).splitlines()]
    in_lines = [found for frame in frames for found in frame["detections"]]
    assert in_lines == json.loads(await text_of("json"))["detections"]


async def test_csv_is_read_back_by_a_csv_reader() -> None:
    rows = list(csv.DictReader(io.StringIO(await text_of("csv"), newline="")))
    assert [row["class_name"] for row in rows] == ["car", "person", "car", "'" + CLASS_NAMES[2]]
    assert rows[0] == {
        "frame_index": "0",
        "pts_ms": "0.000",
        "class_id": "1",
        "class_name": "car",
        "confidence": "0.91235",
        "x1": "1.23",
        "y1": "2.00",
        "x2": "3.00",
        "y2": "4.50",
    }


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_is_never_a_formula(start: str) -> None:
    assert text_cell(f'{start}cmd|"/c calc"!A1').startswith("\"'" + start)


@pytest.mark.parametrize("name", ['say "hi"', "a,b", "line\nbreak", "Auto 🚗", ""])
def test_a_cell_keeps_any_other_name(name: str) -> None:
    assert next(csv.reader(io.StringIO(text_cell(name), newline=""))) in ([name], [])


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(FormatUnknownError, match="json, ndjson, csv, parquet"):
        format_named("coco")
    assert all(known.name == name for name, known in FORMATS.items())


def columns(count: int) -> tuple[Candidates, Sequence[str]]:
    chance = np.random.default_rng(7)
    names = [f"class {number}" for number in range(80)]
    return Candidates(
        frame_index=np.arange(count, dtype=np.int32),
        pts_ms=chance.random(count) * 1e6,
        class_ids=chance.integers(0, 80, count).astype(np.int16),
        confidence=chance.random(count, dtype=np.float32),
        boxes_xyxy=(chance.random((count, 4), dtype=np.float32) - 0.1) * 7680,
    ), names


def objects_in(text: DetectionText) -> list[Detection]:
    return msgspec.json.decode(b"[" + text.between(0, len(text.ends) - 1) + b"]", type=list[Detection])


def test_objects_made_column_by_column_are_those_made_one_by_one() -> None:
    found, names = columns(2000)
    told = [
        [row.frame_index, row.pts_ms, row.class_id, row.class_name, row.confidence, *row.xyxy]
        for row in objects_in(write_detections(found, names))
    ]
    expected = [[*entry.values()] for entry in detection_objects(found, names) if isinstance(entry, dict)]
    flat = [[*entry[:5], *entry[5]] for entry in expected if isinstance(entry[5], list)]
    assert [row[:1] + row[2:4] for row in told] == [row[:1] + row[2:4] for row in flat]
    # Halves may be rounded either way: by one unit of the last decimal.
    numbers = [[row[1], *row[4:]] for row in told], [[row[1], *row[4:]] for row in flat]
    difference = np.abs(np.array(numbers[0], np.float64) - np.array(numbers[1], np.float64))
    assert (difference.max(axis=0) <= [1.1e-3, 1.1e-5, *[1.1e-2] * 4]).all()


def test_any_part_of_the_objects_can_be_taken_out() -> None:
    found, names = columns(10)
    text = write_detections(found, names)
    assert objects_in(text)[3:5] == msgspec.json.decode(b"[" + text.between(3, 5) + b"]", type=list[Detection])
    assert text.between(4, 4) == b""


def test_a_number_that_is_none_is_null() -> None:
    found, names = columns(2)
    found.boxes_xyxy[0, 1], found.confidence[1] = np.inf, np.nan
    first, second = json.loads(b"[" + write_detections(found, names).between(0, 2) + b"]")
    assert (first["xyxy"][1], second["confidence"]) == (None, None)


@given(st.text())
def test_any_class_name_is_told_as_it_is(name: str) -> None:
    found, _ = columns(1)
    found.class_ids[0] = 0
    assert json.loads(write_detections(found, [name]).between(0, 1))["class_name"] == name


def test_no_detections_make_no_objects() -> None:
    assert objects_in(write_detections(Candidates.empty(), ["car"])) == []
    assert len(objects_in(write_detections(four_frames(), CLASS_NAMES))) == 4
