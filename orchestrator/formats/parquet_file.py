"""Apache Parquet: the columns of CSV in full float32 precision, the head as metadata under `trireel`."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from orchestrator.core.types import Candidates
from orchestrator.formats.result_head import ResultHead
from orchestrator.results import DetectionBlock, ResultHeader

if TYPE_CHECKING:
    import pyarrow as pa
    from typing_extensions import Buffer

METADATA_KEY: Final = b"trireel"
# A row group of a few frames would cost more in its footer than in its columns.
ROW_GROUP_ROWS: Final = 50_000


class _Drain(io.RawIOBase):
    """A sink that hands over what was written so far, so that the file never is in memory as a whole."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        self._chunks.append(bytes(data))
        return len(self._chunks[-1])

    def take(self) -> bytes:
        taken, self._chunks = b"".join(self._chunks), []
        return taken


async def encode_parquet(header: ResultHeader, blocks: AsyncIterator[DetectionBlock]) -> AsyncGenerator[bytes, None]:
    """One row a detection, in row groups of about 50,000."""
    # 40 MB that only this format needs.
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(header)
    drain = _Drain()
    with pq.ParquetWriter(pa.PythonFile(drain, mode="w"), schema, compression="zstd") as writer:
        waiting: list[Candidates] = []
        async for block in blocks:
            waiting.append(block.detections)
            if sum(map(len, waiting)) >= ROW_GROUP_ROWS:
                writer.write_table(_table(Candidates.concatenate(waiting), schema, header))
                waiting = []
                yield drain.take()
        if waiting:
            writer.write_table(_table(Candidates.concatenate(waiting), schema, header))
    yield drain.take()


def _schema(header: ResultHeader) -> pa.Schema:
    import pyarrow as pa

    types: dict[str, pa.DataType] = {
        "frame_index": pa.int32(),
        "pts_ms": pa.float64(),
        "class_id": pa.int16(),
        "class_name": pa.dictionary(pa.int16(), pa.string()),
        "confidence": pa.float32(),
        "x1": pa.float32(),
        "y1": pa.float32(),
        "x2": pa.float32(),
        "y2": pa.float32(),
    }
    fields = [pa.field(name, type_, nullable=False) for name, type_ in types.items()]
    return pa.schema(fields, metadata={METADATA_KEY: msgspec.json.encode(ResultHead.from_header(header))})


def _table(found: Candidates, schema: pa.Schema, header: ResultHeader) -> pa.Table:
    import pyarrow as pa

    names = pa.DictionaryArray.from_arrays(found.class_ids, pa.array(header.class_names, pa.string()))
    boxes = [pa.array(np.ascontiguousarray(column)) for column in found.boxes_xyxy.T]
    columns = [
        pa.array(found.frame_index),
        pa.array(found.pts_ms),
        pa.array(found.class_ids),
        names,
        pa.array(found.confidence),
        *boxes,
    ]
    return pa.Table.from_arrays(columns, schema=schema)
