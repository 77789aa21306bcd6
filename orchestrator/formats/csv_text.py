"""Comma-separated values: one row a detection, as RFC 4180 has it, and safe to open in a spreadsheet."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

from orchestrator.core.types import Candidates
from orchestrator.formats.rows import BOX_DECIMALS, CONFIDENCE_DECIMALS, PTS_DECIMALS
from orchestrator.results import DetectionBlock, ResultHeader

COLUMNS: Final = ("frame_index", "pts_ms", "class_id", "class_name", "confidence", "x1", "y1", "x2", "y2")
_ROW: Final = f"%d,%.{PTS_DECIMALS}f,%d,%s,%.{CONFIDENCE_DECIMALS}f" + f",%.{BOX_DECIMALS}f" * 4 + "\r\n"
# A cell that begins with one of these is taken for a formula by spreadsheets, even inside quotes.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


async def encode_csv(header: ResultHeader, blocks: AsyncIterator[DetectionBlock]) -> AsyncGenerator[bytes, None]:
    """A line of column names, then the rows. Frames without detections leave no row."""
    yield ",".join(COLUMNS).encode() + b"\r\n"
    cells = [text_cell(name) for name in header.class_names]
    async for block in blocks:
        if len(block.detections):
            yield _rows(block.detections, cells)


def text_cell(text: str) -> str:
    """`text`, quoted; what a spreadsheet would run as a formula gets an apostrophe in front."""
    shown = f"'{text}" if text.startswith(_FORMULA_STARTS) else text
    return '"' + shown.replace('"', '""') + '"'


def _rows(found: Candidates, cells: Sequence[str]) -> bytes:
    class_ids = found.class_ids.tolist()
    columns = (
        found.frame_index.tolist(),
        found.pts_ms.tolist(),
        class_ids,
        map(cells.__getitem__, class_ids),
        found.confidence.tolist(),
        *found.boxes_xyxy.T.tolist(),
    )
    return "".join(map(_ROW.__mod__, zip(*columns, strict=True))).encode()
