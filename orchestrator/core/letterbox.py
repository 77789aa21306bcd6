"""The one letterbox: minimum rectangle, INTER_LINEAR, padded with 114, as in Ultralytics' prediction.

Decoder children, certificates, tests and benchmarks all use these functions; a second one would be
a second truth. Rounding follows `ultralytics.data.augment.LetterBox(auto=True)` and
`ultralytics.utils.ops.scale_boxes`, because parity with their boxes is promised to 0.005 of confidence.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.types import Letterbox

PAD_VALUE: Final = 114


def fit_letterbox(source_w_px: int, source_h_px: int, *, imgsz: int, stride: int) -> Letterbox:
    """Fit an upright frame into the smallest rectangle of whole strides whose longer side is `imgsz`."""
    if min(source_w_px, source_h_px) < 1:
        raise ValueError(f"a frame of {source_w_px}x{source_h_px} pixels has no area")
    ratio = min(imgsz / source_h_px, imgsz / source_w_px)
    # A frame far longer than wide would round to nothing; Ultralytics fails there, we keep one pixel.
    resized_w, resized_h = max(round(source_w_px * ratio), 1), max(round(source_h_px * ratio), 1)
    spare_w, spare_h = (imgsz - resized_w) % stride, (imgsz - resized_h) % stride
    model_w, model_h = resized_w + spare_w, resized_h + spare_h
    # The way back uses the ratio of the padded sizes, which differs from `ratio` where rounding cut a pixel.
    scale = min(model_h / source_h_px, model_w / source_w_px)
    return Letterbox(
        scale=scale,
        pad_x_px=round(spare_w / 2 - 0.1),
        pad_y_px=round(spare_h / 2 - 0.1),
        source_w_px=source_w_px,
        source_h_px=source_h_px,
        resized_w_px=resized_w,
        resized_h_px=resized_h,
        model_w_px=model_w,
        model_h_px=model_h,
    )


def letterbox_into(row: NDArray[np.uint8], frame: NDArray[np.uint8], box: Letterbox) -> None:
    """Resize `frame` and pad it into `row`, in place.

    row: (H, W, 3) RGB, owned by the caller, fully overwritten. frame: (h, w, 3) RGB, only read.
    Raises ValueError if `box` was fitted to another frame size or `row` has another shape.
    """
    if frame.shape != (box.source_h_px, box.source_w_px, 3):
        raise ValueError(f"the letterbox fits {box.source_w_px}x{box.source_h_px}, but the frame is {frame.shape}")
    if row.shape != (box.model_h_px, box.model_w_px, 3):
        raise ValueError(f"the row is {row.shape}, but the letterbox gives {box.model_h_px}x{box.model_w_px}")
    left, top = box.pad_x_px, box.pad_y_px
    right, bottom = left + box.resized_w_px, top + box.resized_h_px
    row[:top] = PAD_VALUE
    row[bottom:] = PAD_VALUE
    row[top:bottom, :left] = PAD_VALUE
    row[top:bottom, right:] = PAD_VALUE
    inner = row[top:bottom, left:right]
    if frame.shape == inner.shape:
        inner[...] = frame
    else:
        import cv2  # 17 MB and a third of a second, which the API, that only fits letterboxes, can do without.

        cv2.resize(frame, (box.resized_w_px, box.resized_h_px), dst=inner, interpolation=cv2.INTER_LINEAR)


def boxes_to_source(boxes_xyxy: NDArray[np.float32], box: Letterbox) -> NDArray[np.float32]:
    """Carry boxes (K, 4) from letterboxed pixels to source pixels, clipped to the frame. Returns a new array."""
    source = boxes_xyxy - np.array([box.pad_x_px, box.pad_y_px] * 2, dtype=np.float32)
    source /= np.float32(box.scale)
    np.clip(source[:, 0::2], 0, box.source_w_px, out=source[:, 0::2])
    np.clip(source[:, 1::2], 0, box.source_h_px, out=source[:, 1::2])
    return source
