"""Detections as the rows that every text format writes.

Numbers are rounded to what they mean: times to a microsecond, confidences to 5 decimals, boxes to 1/100 px.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

PTS_DECIMALS: Final = 3
CONFIDENCE_DECIMALS: Final = 5
BOX_DECIMALS: Final = 2


class Detection(msgspec.Struct, frozen=True):
    """One box of one frame. Coordinates are absolute pixels of the upright source frame."""

    frame_index: Annotated[int, msgspec.Meta(description="Number of the frame in the source, from 0.", examples=[120])]
    pts_ms: Annotated[
        float, msgspec.Meta(description="Time since the first frame, in milliseconds.", examples=[4004.0])
    ]
    class_id: Annotated[int, msgspec.Meta(description="Position of the class in `class_names`.", examples=[2])]
    class_name: Annotated[str, msgspec.Meta(description="As the model names it.", examples=["car"])]
    confidence: Annotated[
        float, msgspec.Meta(description="Of the box in its best class.", ge=0, le=1, examples=[0.91234])
    ]
    xyxy: Annotated[
        tuple[float, float, float, float],
        msgspec.Meta(description="Left, top, right, bottom, in pixels.", examples=[[101.5, 40.25, 310.0, 222.75]]),
    ]
