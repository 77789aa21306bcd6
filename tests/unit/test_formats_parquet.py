"""Parquet: unrounded columns, and the head as metadata."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator

import numpy as np
import pyarrow.parquet as pq

from orchestrator.formats import parquet_file
from orchestrator.formats.parquet_file import METADATA_KEY, encode_parquet
from orchestrator.results import DetectionBlock, ViewRequest
from tests.support.web_process import CLASS_NAMES
from tests.unit.test_formats_text import columns, four_frames, result


async def test_parquet_holds_the_columns_in_full_precision_and_the_head() -> None:
    header, blocks = await result(ViewRequest(min_confidence=0.05))
    content = b"".join([piece async for piece in encode_parquet(header, blocks)])
    table = pq.read_table(io.BytesIO(content))
    expected = four_frames()
    assert table.column_names == [
        *("frame_index", "pts_ms", "class_id", "class_name", "confidence"),
        *("x1", "y1", "x2", "y2"),
    ]
    assert table["confidence"].to_numpy().tolist() == expected.confidence.tolist()
    assert table["x1"].to_numpy().tolist() == expected.boxes_xyxy[:, 0].tolist()
    assert table["class_name"].to_pylist() == ["car", "person", "car", CLASS_NAMES[2]]
    assert json.loads((table.schema.metadata or {})[METADATA_KEY])["job_id"] == "job_1"


async def test_a_result_without_detections_is_a_file_without_rows() -> None:
    header, blocks = await result(ViewRequest(min_confidence=0.99))
    content = b"".join([piece async for piece in encode_parquet(header, blocks)])
    assert pq.read_table(io.BytesIO(content)).num_rows == 0


async def test_a_long_result_leaves_in_row_groups() -> None:
    header, _ = await result(ViewRequest())
    found, _ = columns(parquet_file.ROW_GROUP_ROWS)
    found = type(found)(
        frame_index=found.frame_index,
        pts_ms=found.pts_ms,
        class_ids=found.class_ids % np.int16(3),
        confidence=found.confidence,
        boxes_xyxy=found.boxes_xyxy,
    )

    async def blocks() -> AsyncIterator[DetectionBlock]:
        for _ in range(3):
            yield DetectionBlock(frame_index=found.frame_index, pts_ms=found.pts_ms, failed={}, detections=found)

    pieces = [piece async for piece in encode_parquet(header, blocks())]
    assert len(pieces) == 4
    file = pq.ParquetFile(io.BytesIO(b"".join(pieces)))
    assert (file.num_row_groups, file.metadata.num_rows) == (3, 3 * parquet_file.ROW_GROUP_ROWS)
