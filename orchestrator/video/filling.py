"""Filling slots with one segment's letterboxed frames; runs in a decoder child."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.contract import FRAME_CHANNELS
from orchestrator.core.letterbox import fit_letterbox, letterbox_into
from orchestrator.core.types import Letterbox
from orchestrator.video.decoding import FrameSource
from orchestrator.video.messages import BatchFilled, DecodeSegment, SegmentEnded

NO_POSITION: Final = -1


class WantedFrames:
    """The frames a segment wants, and which of them came. keys: int64 (S,), ascending.

    short_cuts: int64 (K,) ticks, ascending, each not behind some wanted frame; kept by the position of the first such.
    """

    def __init__(self, keys: NDArray[np.int64], short_cuts: NDArray[np.int64]) -> None:
        self.keys = keys
        self.short_cuts = dict(zip(np.searchsorted(keys, short_cuts).tolist(), short_cuts.tolist(), strict=True))
        self._came = np.zeros(len(keys), dtype=np.bool_)
        self.missing = len(keys)
        self.first, self.last = int(keys[0]), int(keys[-1])

    def claim(self, key: int) -> int | None:
        """Position of the first frame wanted with this key that has not come; None where there is none."""
        low, high = np.searchsorted(self.keys, (key, key + 1))
        for position in range(int(low), int(high)):
            if not self._came[position]:
                self._came[position] = True
                self.missing -= 1
                return position
        return None


@dataclass(slots=True)
class _OpenBatch:
    slot: int
    rows: NDArray[np.uint8]
    box: Letterbox
    positions: list[int]


class SlotFiller:
    """Writes frames of one segment into slots.

    region: uint8 (R,), all slots, mapped from the orchestrator's memory. take_slot: waits for the next slot given.
    send: tells the orchestrator.
    """

    def __init__(
        self,
        request: DecodeSegment,
        region: NDArray[np.uint8],
        *,
        take_slot: Callable[[], int],
        send: Callable[[BatchFilled], None],
    ) -> None:
        self._request = request
        self._region = region
        self._take_slot = take_slot
        self._send = send
        self._batch: _OpenBatch | None = None
        self.waiting_s = 0.0

    def add(self, position: int, pixels: NDArray[np.uint8]) -> None:
        """Letterbox an upright frame (h, w, 3) into the open batch; send it when it is full or the size changes."""
        height, width = pixels.shape[:2]
        batch = self._batch
        if batch is not None and (batch.box.source_w_px, batch.box.source_h_px) != (width, height):
            self.send_batch()
            batch = None
        if batch is None:
            batch = self._batch = self._open_batch(width, height)
        letterbox_into(batch.rows[len(batch.positions)], pixels, batch.box)
        batch.positions.append(position)
        if len(batch.positions) == len(batch.rows):
            self.send_batch()

    def send_batch(self) -> None:
        """Send what is in the open batch, if there is one; from here on its slot is not touched."""
        if self._batch is not None:
            box = self._batch.box
            self._send(BatchFilled(self._batch.slot, tuple(self._batch.positions), box.source_w_px, box.source_h_px))
            self._batch = None

    def _open_batch(self, width: int, height: int) -> _OpenBatch:
        request = self._request
        box = fit_letterbox(width, height, imgsz=request.imgsz, stride=request.stride)
        row_bytes = box.model_h_px * box.model_w_px * FRAME_CHANNELS
        capacity = max(min(request.batch_frames, request.slot_bytes // row_bytes), 1)
        began = time.monotonic()
        slot = self._take_slot()
        self.waiting_s += time.monotonic() - began
        start = slot * request.slot_bytes
        rows = self._region[start : start + capacity * row_bytes]
        return _OpenBatch(slot, rows.reshape(capacity, box.model_h_px, box.model_w_px, FRAME_CHANNELS), box, [])


def fill_segment(
    source: FrameSource,
    request: DecodeSegment,
    wanted: WantedFrames,
    filler: SlotFiller,
    *,
    goes_on: bool,
) -> SegmentEnded:
    """Decode one segment. goes_on: the source stands before its first frame already, and stays where it is."""
    began = time.monotonic()
    source.want(wanted.keys)
    if goes_on:
        source.frame_errors = 0
        entry = source.entry
    else:
        entry = _enter(source, request.entries, wanted.first)
    _fill(source, wanted, filler)
    if wanted.missing and source.has_left_out:
        # What a decoder never saw may upset the order in which it gives frames out, and it drops late ones.
        source.leave_nothing_out()
        entry = _enter(source, request.entries, wanted.first)
        _fill(source, wanted, filler)
    filler.send_batch()
    decoding_s = time.monotonic() - began - filler.waiting_s
    return SegmentEnded(entry, source.frame_errors, decoding_s)


def _fill(source: FrameSource, wanted: WantedFrames, filler: SlotFiller) -> None:
    """Go through the segment from where the source stands, until all frames came or no more can come."""
    upcoming = 0
    while wanted.missing:
        short_cut = wanted.short_cuts.get(upcoming)
        if short_cut is not None and source.may_jump(short_cut):
            is_there = _jump(source, short_cut, first_wanted=int(wanted.keys[upcoming]))
            if not is_there:
                return
        current = source.next()
        if current is None:
            return
        key, frame = current
        if key > wanted.last:
            source.hold(key, frame)
            return
        position = wanted.claim(key)
        if position is not None:
            filler.add(position, source.pixels(frame))
            upcoming = position + 1


def _enter(source: FrameSource, entries: tuple[int, ...], first_wanted: int) -> int | None:
    """Go to the best entry that does not lose the first frame wanted, or to the start of the file."""
    for entry in entries:
        if source.enter(entry) and _begins_well(source, first_wanted):
            # What went wrong between the place a seek found and the entry concerns no frame of this segment.
            source.frame_errors = 0
            return entry
    source.enter(None)
    return None


def _jump(source: FrameSource, short_cut: int, *, first_wanted: int) -> bool:
    """Go to a key frame ahead, and leave unread what lies before it; False where that loses the frame wanted."""
    frame_errors = source.frame_errors
    is_there = source.jump(short_cut) and _begins_well(source, first_wanted)
    source.frame_errors = frame_errors
    return is_there


def _begins_well(source: FrameSource, first_wanted: int) -> bool:
    """Whether the first frame out is a true key frame that is not behind the first one wanted; it is held."""
    current = source.next()
    if current is None:
        return False
    source.hold(*current)
    # The decoder says of a picture that was refreshed bit by bit that it is whole, and it is not always; after a key
    # frame nothing refers to what came before it.
    return current[0] <= first_wanted and current[1].key_frame
