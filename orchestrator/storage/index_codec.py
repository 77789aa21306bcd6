"""A frame index as bytes: 9 a frame, behind a header of 40.

Layout, little endian: magic `TRIX`, version uint8, is_timed uint8, 2 zero bytes, time base numerator and denominator
int64, frame count uint64, CRC-32 of the rest uint32, 4 zero bytes; then pts int64 (F,), then is_key uint8 (F,).
"""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from typing import Final

import numpy as np

from orchestrator.core.types import FrameIndex
from orchestrator.errors import DataDamagedError

MAGIC: Final = b"TRIX"
VERSION: Final = 1
HEADER: Final = struct.Struct("<4sBB2xqqQI4x")
FRAME_BYTES: Final = 9


def encode_index(index: FrameIndex) -> bytes:
    body = index.pts.astype("<i8").tobytes() + index.is_key.astype(np.uint8).tobytes()
    base = index.time_base
    header = HEADER.pack(MAGIC, VERSION, index.is_timed, base.numerator, base.denominator, len(index), zlib.crc32(body))
    return header + body


def decode_index(stored: bytes) -> FrameIndex:
    """Raises DataDamagedError unless `stored` is exactly what `encode_index` made."""
    if len(stored) < HEADER.size:
        raise DataDamagedError("a frame index is cut short; upload the video again")
    magic, version, is_timed, numerator, denominator, frames, checksum = HEADER.unpack_from(stored)
    if magic != MAGIC or version != VERSION:
        raise DataDamagedError(f"a frame index of version {version} cannot be read by this release")
    body = memoryview(stored)[HEADER.size :]
    if len(body) != frames * FRAME_BYTES or zlib.crc32(body) != checksum:
        raise DataDamagedError("a frame index does not match its checksum; upload the video again")
    return FrameIndex(
        pts=np.frombuffer(body, "<i8", count=frames).astype(np.int64),
        is_key=np.frombuffer(body, np.uint8, offset=8 * frames).astype(np.bool_),
        time_base=Fraction(numerator, denominator),
        is_timed=bool(is_timed),
    )
