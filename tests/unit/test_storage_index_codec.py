"""The frame index as bytes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.types import FrameIndex
from orchestrator.errors import StorageError
from orchestrator.storage.index_codec import FRAME_BYTES, HEADER, decode_index, encode_index

SOME = FrameIndex(np.arange(-5, 95, dtype=np.int64), np.arange(100) % 9 == 0, Fraction(1, 12_800))


@given(
    pts=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40),
    base=st.fractions(min_value=Fraction(1, 10**6), max_value=10, max_denominator=10**9),
    is_timed=st.booleans(),
    data=st.data(),
)
def test_an_index_comes_back_as_it_was(pts: list[int], base: Fraction, is_timed: bool, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.booleans(), min_size=len(pts), max_size=len(pts)))
    index = FrameIndex(np.array(pts, np.int64), np.array(keys, np.bool_), base, is_timed)
    found = decode_index(encode_index(index))
    assert found.pts.tolist() == pts
    assert found.is_key.tolist() == keys
    assert (found.time_base, found.is_timed) == (base, is_timed)


def test_an_index_takes_nine_bytes_a_frame() -> None:
    assert len(encode_index(SOME)) == HEADER.size + 100 * FRAME_BYTES == 940


@pytest.mark.parametrize("length", [0, HEADER.size - 1, HEADER.size, 500, 939])
def test_a_torn_index_is_a_storage_error(length: int) -> None:
    with pytest.raises(StorageError):
        decode_index(encode_index(SOME)[:length])


@pytest.mark.parametrize("position", [0, 4, 24, 32, HEADER.size, 939])
def test_a_damaged_index_is_a_storage_error(position: int) -> None:
    stored = bytearray(encode_index(SOME))
    stored[position] ^= 0x10
    with pytest.raises(StorageError):
        decode_index(bytes(stored))
