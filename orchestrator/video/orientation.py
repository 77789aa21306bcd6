"""How a frame must be turned and mirrored to stand upright: the 2x2 part of the container's display matrix."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

MATRIX_BYTES: Final = 36
# 16.16 fixed point; what a real camera writes is exact, so this only forgives rounding.
TOLERANCE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Orientation:
    """A point (x, y) of the stored frame lies at (a*x + c*y, b*x + d*y) of the upright one; all are -1, 0 or 1."""

    a: int
    b: int
    c: int
    d: int

    @property
    def swaps_sides(self) -> bool:
        return self.a == 0

    @property
    def is_mirrored(self) -> bool:
        return self.a * self.d - self.b * self.c < 0

    @property
    def rotation_deg(self) -> int:
        """Clockwise, after mirroring left to right where `is_mirrored`."""
        x, y = (-self.a, -self.b) if self.is_mirrored else (self.a, self.b)
        return {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[x, y]

    def upright_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height of the upright frame."""
        return (height_px, width_px) if self.swaps_sides else (width_px, height_px)

    def upright(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a stored frame (h, w, 3); the same array comes back where nothing is to do."""
        turned = cv2.transpose(frame) if self.swaps_sides else frame
        flip_x = (self.c if self.swaps_sides else self.a) < 0
        flip_y = (self.b if self.swaps_sides else self.d) < 0
        if flip_x and flip_y:
            turned = cv2.flip(turned, -1)
        elif flip_x or flip_y:
            turned = cv2.flip(turned, 1 if flip_x else 0)
        return np.asarray(turned, dtype=np.uint8)


IDENTITY: Final = Orientation(1, 0, 0, 1)


def orientation_of(matrix: bytes | None) -> Orientation:
    """From a display matrix, nine int32 in machine order; one that is not of whole quarter turns counts as none."""
    if matrix is None or len(matrix) != MATRIX_BYTES:
        return IDENTITY
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    scale = math.sqrt(abs(a * d - b * c))
    if scale == 0:
        return IDENTITY
    parts = [part / scale for part in (a, b, c, d)]
    whole = [round(part) for part in parts]
    is_quarter_turn = (
        all(abs(part - near) <= TOLERANCE for part, near in zip(parts, whole, strict=True))
        and abs(whole[0]) + abs(whole[1]) == 1
        and abs(whole[0]) == abs(whole[3])
        and abs(whole[1]) == abs(whole[2])
    )
    return Orientation(*whole) if is_quarter_turn else IDENTITY
