"""The display matrix: eight ways to lie, and everything else counts as upright."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from orchestrator.video.orientation import IDENTITY, Orientation, orientation_of

ONE = 1 << 16


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    return struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


TURNS = {(1, 0, 0, 1): 0, (0, 1, -1, 0): 90, (-1, 0, 0, -1): 180, (0, -1, 1, 0): 270}
MIRRORED_TURNS = {(-1, 0, 0, 1): 0, (0, -1, -1, 0): 90, (1, 0, 0, -1): 180, (0, 1, 1, 0): 270}


@pytest.mark.parametrize(("parts", "clockwise_deg"), TURNS.items())
def test_quarter_turns(parts: tuple[int, int, int, int], clockwise_deg: int) -> None:
    turned = orientation_of(matrix(*(part * ONE for part in parts)))
    assert (turned.rotation_deg, turned.is_mirrored) == (clockwise_deg, False)
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(turned.upright(frame), np.rot90(frame, k=-clockwise_deg // 90))


@pytest.mark.parametrize(("parts", "clockwise_deg"), MIRRORED_TURNS.items())
def test_mirrored_quarter_turns(parts: tuple[int, int, int, int], clockwise_deg: int) -> None:
    turned = orientation_of(matrix(*(part * ONE for part in parts)))
    assert (turned.rotation_deg, turned.is_mirrored) == (clockwise_deg, True)
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(turned.upright(frame), np.rot90(frame[:, ::-1], k=-clockwise_deg // 90))


@pytest.mark.parametrize("parts", [*TURNS, *MIRRORED_TURNS])
def test_the_upright_size_is_the_size_of_the_upright_frame(parts: tuple[int, int, int, int]) -> None:
    frame = np.zeros((2, 3, 3), dtype=np.uint8)
    width, height = Orientation(*parts).upright_size(3, 2)
    assert Orientation(*parts).upright(frame).shape == (height, width, 3)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"short",
        matrix(0, 0, 0, 0),
        matrix(ONE, ONE, 0, ONE),
        matrix(46341, 46341, -46341, 46341),
        matrix(-(2**31), -(2**31), -(2**31), -(2**31)),
        matrix(2 * ONE, 0, 0, ONE),
    ],
    ids=["none", "empty", "short", "zero", "sheared", "45 degrees", "fuzzed", "stretched"],
)
def test_a_matrix_of_no_quarter_turn_counts_as_none(content: bytes | None) -> None:
    assert orientation_of(content) == IDENTITY


def test_a_scaled_quarter_turn_is_a_quarter_turn() -> None:
    assert orientation_of(matrix(0, 2 * ONE, -2 * ONE, 0)).rotation_deg == 90
