"""The letterbox: whole strides, a centred picture, and boxes that find their way back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.letterbox import PAD_VALUE, boxes_to_source, fit_letterbox, letterbox_into

SIDES = st.integers(min_value=2, max_value=4000)
IMGSZ = st.sampled_from([160, 320, 640])
STRIDE = 32


@given(width=SIDES, height=SIDES, imgsz=IMGSZ)
def test_the_rectangle_is_whole_strides_and_no_larger_than_needed(width: int, height: int, imgsz: int) -> None:
    box = fit_letterbox(width, height, imgsz=imgsz, stride=STRIDE)
    assert max(box.model_w_px, box.model_h_px) == imgsz
    assert box.model_w_px % STRIDE == box.model_h_px % STRIDE == 0
    assert box.model_w_px - box.resized_w_px < STRIDE
    assert box.model_h_px - box.resized_h_px < STRIDE


@given(width=SIDES, height=SIDES, imgsz=IMGSZ)
def test_the_picture_is_centred_to_a_pixel(width: int, height: int, imgsz: int) -> None:
    box = fit_letterbox(width, height, imgsz=imgsz, stride=STRIDE)
    right = box.model_w_px - box.resized_w_px - box.pad_x_px
    bottom = box.model_h_px - box.resized_h_px - box.pad_y_px
    assert 0 <= right - box.pad_x_px <= 1
    assert 0 <= bottom - box.pad_y_px <= 1


@given(
    width=st.integers(64, 2000),
    height=st.integers(64, 2000),
    imgsz=IMGSZ,
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_a_box_returns_to_its_source_within_the_rounding_of_the_sizes(
    width: int, height: int, imgsz: int, corners: list[float]
) -> None:
    box = fit_letterbox(width, height, imgsz=imgsz, stride=STRIDE)
    x1, x2 = sorted([corners[0] * width, corners[2] * width])
    y1, y2 = sorted([corners[1] * height, corners[3] * height])
    scale_x, scale_y = box.resized_w_px / width, box.resized_h_px / height
    letterboxed = np.array(
        [
            [
                x1 * scale_x + box.pad_x_px,
                y1 * scale_y + box.pad_y_px,
                x2 * scale_x + box.pad_x_px,
                y2 * scale_y + box.pad_y_px,
            ]
        ],
        dtype=np.float32,
    )
    returned = boxes_to_source(letterboxed, box)[0]
    # Each resized side was rounded to a whole model pixel, and the scale is taken from the padded one.
    slack = 1.5 / box.scale + 0.05 * max(width, height)
    assert np.abs(returned - [x1, y1, x2, y2]).max() <= slack
    assert returned.min() >= 0
    assert returned[0::2].max() <= width
    assert returned[1::2].max() <= height


@pytest.mark.parametrize("size", [(768, 432), (432, 768), (161, 121), (640, 640), (1920, 1080), (3, 4000)])
def test_a_frame_is_resized_and_padded_as_in_training(size: tuple[int, int]) -> None:
    width, height = size
    frame = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    box = fit_letterbox(width, height, imgsz=640, stride=STRIDE)
    row = np.zeros((box.model_h_px, box.model_w_px, 3), dtype=np.uint8)
    letterbox_into(row, frame, box)
    resized = cv2.resize(frame, (box.resized_w_px, box.resized_h_px), interpolation=cv2.INTER_LINEAR)
    expected = cv2.copyMakeBorder(
        resized,
        box.pad_y_px,
        box.model_h_px - box.resized_h_px - box.pad_y_px,
        box.pad_x_px,
        box.model_w_px - box.resized_w_px - box.pad_x_px,
        cv2.BORDER_CONSTANT,
        value=(PAD_VALUE,) * 3,
    )
    assert np.array_equal(row, expected)


def test_sixteen_to_nine_runs_at_384_by_640() -> None:
    box = fit_letterbox(768, 432, imgsz=640, stride=STRIDE)
    assert (box.model_h_px, box.model_w_px) == (384, 640)
    assert (box.pad_x_px, box.pad_y_px) == (0, 12)


def test_a_letterbox_fits_the_frame_it_was_made_for_only() -> None:
    box = fit_letterbox(100, 50, imgsz=160, stride=STRIDE)
    row = np.zeros((box.model_h_px, box.model_w_px, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="fits"):
        letterbox_into(row, np.zeros((50, 101, 3), dtype=np.uint8), box)
    with pytest.raises(ValueError, match="row"):
        letterbox_into(row[1:], np.zeros((50, 100, 3), dtype=np.uint8), box)
    with pytest.raises(ValueError, match="no area"):
        fit_letterbox(0, 50, imgsz=160, stride=STRIDE)
