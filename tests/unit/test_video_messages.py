"""What a child says is checked before it is believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.types import IndexReport, VideoHeader
from orchestrator.video.messages import (
    Alive,
    BatchFilled,
    ChildLimits,
    DecodeSegment,
    Ended,
    Fill,
    HeaderRead,
    IndexMade,
    MakeIndex,
    MessageError,
    Refused,
    SegmentEnded,
    from_wire,
    to_wire,
)

HEADER = VideoHeader(
    container="mov",
    codec="h264",
    width_px=2,
    height_px=3,
    rotation_deg=90,
    is_mirrored=False,
    duration_s_hint=None,
    fps_hint=25.0,
    notes=("hdr",),
)
MESSAGES = [
    Alive(),
    Fill(3),
    Ended(1, exit_code=0, signal=9),
    HeaderRead(HEADER),
    IndexMade(IndexReport(frame_count=1, duration_s=2.0, fps=None, is_vfr=True), 1, 25, is_timed=True),
    BatchFilled(1, (0, 1), 160, 96),
    SegmentEnded(None, 0, 0.5),
    SegmentEnded(-7, 2, 1.0),
    Refused("video_unreadable", "it is broken: é \0"),
    MakeIndex(ChildLimits(max_duration_s=1.0, max_frame_pixels=2, max_fps=3.0, max_frames=4)),
    DecodeSegment(
        number=1,
        wanted_frames=2,
        entries=(5, 4),
        is_timed=True,
        imgsz=640,
        stride=32,
        batch_frames=4,
        slot_bytes=5,
        max_frame_pixels=6,
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: object) -> None:
    assert from_wire(to_wire(message), type(message)) == message


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "Fill"},
        {"kind": "Fill", "slot": "1"},
        {"kind": "Fill", "slot": 1.5},
        {"kind": "Fill", "slot": True},
        {"kind": "Fill", "slot": None},
        {"kind": "Fill", "slot": 2**63},
        {"kind": "Fill", "slot": 1, "more": 2},
        {"kind": "Alive"},
        {"kind": "__class__"},
        {},
        [],
        None,
    ],
)
def test_what_does_not_fit_is_refused(body: object) -> None:
    with pytest.raises(MessageError):
        from_wire(json.dumps(body).encode(), Fill)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(packet: bytes) -> None:
    with pytest.raises(MessageError):
        from_wire(packet, Fill, BatchFilled)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(slot=JSON, positions=JSON)
def test_no_values_raise_anything_else(slot: object, positions: object) -> None:
    body = {"kind": "BatchFilled", "slot": slot, "positions": positions, "source_w_px": 1, "source_h_px": 1}
    try:
        message = from_wire(json.dumps(body).encode(), BatchFilled)
    except MessageError:
        return
    assert isinstance(message.slot, int)
    assert all(isinstance(position, int) for position in message.positions)
