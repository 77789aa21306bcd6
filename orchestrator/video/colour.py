"""From a decoded frame to RGB, pixel for pixel as OpenCV's VideoCapture does it; runs in a decoder child.

Parity with Ultralytics' boxes includes the colours its frames have, and those come from OpenCV 5.
"""

from __future__ import annotations

from typing import Final

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

PIXEL_FORMAT: Final = "rgb24"
HDR_TRANSFERS: Final = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
# Gamuts wider than a screen's: libswscale maps their colours to BT.709 where nothing else is asked.
WIDE_PRIMARIES: Final = frozenset(
    {ColorPrimaries.FILM, ColorPrimaries.BT2020, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432}
)


class RgbConverter:
    """Converts frames of one video; keeps libswscale's tables between frames of one format."""

    def __init__(self) -> None:
        self._plain = VideoReformatter()
        self._mapping = VideoReformatter()

    def pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame as stored, uint8 (h, w, 3) RGB; valid while nothing else is converted."""
        rgb = self._mapped(frame) if _needs_mapping(frame) else None
        if rgb is None:
            rgb = self._plain.reformat(frame, format=PIXEL_FORMAT, interpolation=Interpolation.BICUBIC, threads=1)
        return np.asarray(rgb.to_ndarray(), dtype=np.uint8)

    def _mapped(self, frame: VideoFrame) -> VideoFrame | None:
        """With colours and brightness of BT.709; None for a combination of tags that libswscale cannot map."""
        try:
            return self._mapping.reformat(
                frame,
                format=PIXEL_FORMAT,
                interpolation=Interpolation.BICUBIC,
                dst_color_trc=ColorTrc.BT709,
                dst_color_primaries=ColorPrimaries.BT709,
                threads=1,
            )
        except av.error.OSError:
            return None


def is_hdr(frame: VideoFrame) -> bool:
    return frame.color_trc in HDR_TRANSFERS


def _needs_mapping(frame: VideoFrame) -> bool:
    return is_hdr(frame) or frame.color_primaries in WIDE_PRIMARIES
