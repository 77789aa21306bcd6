"""A part's body: one segment's candidates as compressed columns.

Layout, little endian: magic `TRPT`, version uint8, 3 zero bytes, row count uint32, CRC-32 of the rest uint32, then
one zlib stream of the columns in the order of `COLUMNS`. Each column is byte-shuffled (all first bytes, then all
second bytes, ...), which on 64 frames of 30 drifting boxes brings 65,280 bytes to 30,451 in 0.9 ms; without it
37,992 bytes in 1.3 ms, and a higher compression level gains 2 %.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.types import Candidates
from orchestrator.errors import DataDamagedError

MAGIC: Final = b"TRPT"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sB3xII")
COMPRESSION_LEVEL: Final = 1
COLUMNS: Final = (
    ("frame_index", "<i4"),
    ("pts_ms", "<f8"),
    ("class_ids", "<i2"),
    ("confidence", "<f4"),
    ("x1", "<f4"),
    ("y1", "<f4"),
    ("x2", "<f4"),
    ("y2", "<f4"),
)
ROW_BYTES: Final = sum(np.dtype(kind).itemsize for _, kind in COLUMNS)


def encode_part(candidates: Candidates) -> bytes:
    """All columns, bit by bit as they are."""
    columns: list[NDArray[Any]] = [
        candidates.frame_index,
        candidates.pts_ms,
        candidates.class_ids,
        candidates.confidence,
        *candidates.boxes_xyxy.T,
    ]
    shuffled = b"".join(_shuffled(column, kind) for column, (_, kind) in zip(columns, COLUMNS, strict=True))
    body = zlib.compress(shuffled, COMPRESSION_LEVEL)
    return HEADER.pack(MAGIC, VERSION, len(candidates), zlib.crc32(body)) + body


def decode_part(body: bytes) -> Candidates:
    """The candidates that were encoded, as arrays of their own. Raises DataDamagedError for anything else."""
    count, stream = _checked(body)
    shuffled = zlib.decompress(stream)
    if len(shuffled) != count * ROW_BYTES:
        raise DataDamagedError(f"a part tells of {count} candidates but holds {len(shuffled)} bytes")
    columns: list[NDArray[Any]] = []
    offset = 0
    for _, kind in COLUMNS:
        size = count * np.dtype(kind).itemsize
        columns.append(_unshuffled(shuffled[offset : offset + size], kind, count))
        offset += size
    frame_index, pts_ms, class_ids, confidence, *sides = columns
    return Candidates(
        frame_index=frame_index,
        pts_ms=pts_ms,
        class_ids=class_ids,
        confidence=confidence,
        boxes_xyxy=np.stack(sides, axis=1),
    )


def _checked(body: bytes) -> tuple[int, bytes]:
    """The row count and the compressed columns."""
    if len(body) < HEADER.size:
        raise DataDamagedError("a part is cut short; the database is damaged")
    magic, version, count, checksum = HEADER.unpack_from(body)
    stream = body[HEADER.size :]
    if magic != MAGIC or version != VERSION:
        raise DataDamagedError(f"a part of version {version} cannot be read by this release")
    if zlib.crc32(stream) != checksum:
        raise DataDamagedError("a part does not match its checksum; the database is damaged")
    return count, stream


def _shuffled(column: NDArray[Any], kind: str) -> bytes:
    values = np.ascontiguousarray(column, dtype=kind)
    return values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()


def _unshuffled(raw: bytes, kind: str, count: int) -> NDArray[Any]:
    size = np.dtype(kind).itemsize
    planes = np.frombuffer(raw, np.uint8).reshape(size, count)
    # In the machine's own byte order from here on.
    return np.ascontiguousarray(planes.T).view(kind).reshape(count).astype(np.dtype(kind).newbyteorder("="), copy=False)
