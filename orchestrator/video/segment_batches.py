"""One segment's batches, as they come out of a decoder child."""

from __future__ import annotations

import numpy as np

from orchestrator.core.contract import FRAME_CHANNELS
from orchestrator.core.letterbox import fit_letterbox
from orchestrator.core.records import SegmentReport
from orchestrator.core.types import FrameBatch
from orchestrator.errors import DecoderCrashedError, FrameTooLargeError
from orchestrator.ports import SegmentRequest
from orchestrator.video.decoder_child import BROKE_PROTOCOL, DecoderChild
from orchestrator.video.messages import BatchFilled, SegmentEnded
from orchestrator.video.slots import SlotPool

NOT_DECODABLE = "not_decodable"


class OpenSegment:
    """Implements `SegmentBatches`. The child always holds one slot while there is something to fill it with."""

    def __init__(
        self, request: SegmentRequest, child: DecoderChild, slots: SlotPool, *, stall_timeout_s: float
    ) -> None:
        self._request = request
        self._child = child
        self._slots = slots
        self._stall_timeout_s = stall_timeout_s
        self._came = np.zeros(len(request.stamps), dtype=np.bool_)
        self._ended: SegmentEnded | None = None

    @property
    def is_over(self) -> bool:
        return self._ended is not None

    async def next(self) -> FrameBatch | None:
        """The next batch, whose slot is the caller's from here on; None at the end. Raises DecoderError, VideoError."""
        if self._ended is not None:
            return None
        if not self._child.held:
            self._child.lend(await self._slots.lease())
        message: BatchFilled | SegmentEnded = await self._child.receive(
            BatchFilled, SegmentEnded, timeout_s=self._stall_timeout_s
        )
        if isinstance(message, SegmentEnded):
            self._child.give_back_held()
            self._ended = message
            return None
        try:
            batch = self._checked(message)
        except ValueError as exc:
            await self._child.end(BROKE_PROTOCOL)
            raise DecoderCrashedError(f"a decoder described an impossible batch: {exc}") from exc
        self._child.take_back(batch.slot)
        # The child goes on with the next batch while this one is inferred, if there is room.
        spare = self._slots.try_lease()
        if spare is not None:
            self._child.lend(spare)
        return batch

    def report(self) -> SegmentReport:
        """After the end. Raises ValueError before."""
        if self._ended is None:
            raise ValueError("the segment has not ended yet")
        missing = np.flatnonzero(~self._came).tolist()
        return SegmentReport(
            entry_pts=self._ended.entry_pts,
            failed=tuple((self._request.stamps[position], NOT_DECODABLE) for position in missing),
            frame_errors=self._ended.frame_errors,
            decoding_s=self._ended.decoding_s,
        )

    def _checked(self, message: BatchFilled) -> FrameBatch:
        """The batch a child says it made. Raises ValueError: what a child says may be hostile."""
        positions = np.array(message.positions, dtype=np.int64)
        if message.slot not in self._child.held:
            raise ValueError(f"slot {message.slot} is not the child's")
        if not len(positions) or positions.min() < 0 or positions.max() >= len(self._came):
            raise ValueError(f"positions {message.positions} are not among {len(self._came)}")
        if self._came[positions].any() or len(set(message.positions)) != len(positions):
            raise ValueError(f"a frame of {message.positions} came twice")
        box = fit_letterbox(
            message.source_w_px, message.source_h_px, imgsz=self._request.imgsz, stride=self._request.stride
        )
        shape = (len(positions), box.model_h_px, box.model_w_px, FRAME_CHANNELS)
        pixels = self._slots.view(message.slot, shape)
        self._came[positions] = True
        return FrameBatch(message.slot, pixels, tuple(self._request.stamps[each] for each in positions), box)


def check_fits(request: SegmentRequest, slots: SlotPool) -> None:
    """Raises FrameTooLargeError if a frame of the largest shape, a square, does not fit into a slot."""
    largest = request.imgsz * request.imgsz * FRAME_CHANNELS
    if largest > slots.slot_bytes:
        raise FrameTooLargeError(
            f"a frame of {request.imgsz}x{request.imgsz} takes {largest} bytes, a slot holds {slots.slot_bytes}; "
            "start the orchestrator again so that it makes slots for this model"
        )
