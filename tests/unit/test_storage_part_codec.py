"""Parts as bytes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orchestrator.core.types import Candidates
from orchestrator.errors import StorageError
from orchestrator.storage.part_codec import HEADER, MAGIC, decode_part, encode_part

NAMES = ("frame_index", "pts_ms", "class_ids", "confidence", "boxes_xyxy")


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    count = draw(st.integers(0, 50))
    return Candidates(
        frame_index=draw(arrays(np.int32, count)),
        pts_ms=draw(arrays(np.float64, count)),
        class_ids=draw(arrays(np.int16, count)),
        confidence=draw(arrays(np.float32, count)),
        boxes_xyxy=draw(arrays(np.float32, (count, 4))),
    )


@given(candidates())
@settings(deadline=None)
def test_candidates_come_back_bit_by_bit(given_ones: Candidates) -> None:
    found = decode_part(encode_part(given_ones))
    for name in NAMES:
        one, other = getattr(found, name), getattr(given_ones, name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        # Bytes, since NaN differs from itself.
        assert one.tobytes() == other.tobytes()


def some_part() -> bytes:
    return encode_part(
        Candidates(
            frame_index=np.arange(40, dtype=np.int32),
            pts_ms=np.arange(40, dtype=np.float64),
            class_ids=np.zeros(40, np.int16),
            confidence=np.full(40, 0.5, np.float32),
            boxes_xyxy=np.ones((40, 4), np.float32),
        )
    )


@given(position=st.integers(0, len(some_part()) - 1), flip=st.integers(1, 255))
def test_a_damaged_byte_is_found_or_harmless(position: int, flip: int) -> None:
    body = bytearray(some_part())
    body[position] ^= flip
    is_padding = 5 <= position < 8
    if is_padding:
        assert len(decode_part(bytes(body))) == 40
    else:
        with pytest.raises(StorageError):
            decode_part(bytes(body))


@pytest.mark.parametrize("length", [0, 1, HEADER.size - 1, HEADER.size, len(some_part()) - 1])
def test_a_part_cut_short_is_a_storage_error(length: int) -> None:
    with pytest.raises(StorageError):
        decode_part(some_part()[:length])


def test_a_part_of_a_later_release_is_refused() -> None:
    body = bytearray(some_part())
    body[4] = 2
    with pytest.raises(StorageError, match="version 2"):
        decode_part(bytes(body))


def test_the_layout_is_what_the_module_says() -> None:
    magic, version, count, checksum = struct.unpack_from("<4sB3xII", some_part())
    assert (magic, version, count) == (MAGIC, 1, 40)
    assert checksum == zlib.crc32(some_part()[16:])
