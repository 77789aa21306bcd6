"""Which packets libav need not decode: those of frames that nobody wants and no other frame refers to.

Runs in a decoder child. libav itself tells non-reference frames from others (`skip_frame=NONREF`), packet by packet,
before it decodes anything of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# Where no other frame ever refers to a non-reference frame. In HEVC one of a higher temporal layer may, and other
# decoders take no heed of `skip_frame`.
ABSOLUTE: Final = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4"})


class FrameSkipper:
    """Sets `skip_frame` for each packet of one video. Packets carry the time stamps of their frames.

    has_left_out: whether anything may have been left out since the last entry. is_spoiled: frames that come from now
    on may differ for it, until the next entry. is_given_up: nothing is to be left out any more.
    """

    def __init__(self) -> None:
        self.has_left_out = False
        self.is_spoiled = False
        self.is_given_up = False
        self._saw_frame = False
        self._wanted: Collection[int] = ()
        self._last_wanted: int | None = None

    def begin(self) -> None:
        """Decoding begins anew at an entry."""
        self.has_left_out = False
        self.is_spoiled = False

    def want(self, keys: Collection[int]) -> None:
        """Frames before the last of `keys` (ticks) that are not among them may be left out; all behind it are kept."""
        self._wanted = frozenset(keys)
        self._last_wanted = max(keys)

    def give_up(self) -> None:
        """Leave nothing out any more."""
        self.is_given_up = True

    def leave_out(self) -> None:
        """Something was left out: what is missing later may be there."""
        self.has_left_out = True

    def prepare(self, context: VideoCodecContext, packet: Packet[VideoStream]) -> None:
        """Tell the decoder what it may do with the packet that it gets next."""
        may_skip = self._saw_frame and not self.is_given_up and self._is_unwanted(packet.pts)
        if may_skip and context.codec.canonical_name in ABSOLUTE:
            context.skip_frame = "NONREF"
            self.leave_out()
        else:
            context.skip_frame = "DEFAULT"

    def judge(self, frames: Sequence[VideoFrame], *, is_damaged: bool) -> None:
        """Learn from what the decoder gave for a packet whether leaving out is safe; to be told of every packet.

        A frame of fields may lie in two packets, one of them a reference and the other not. What is damaged, the
        decoder mends with what it decoded before, whether that was a reference or not.
        """
        if is_damaged or any(frame.interlaced_frame for frame in frames):
            self.is_given_up = True
            self.is_spoiled |= self.has_left_out
        self._saw_frame |= bool(frames)

    def _is_unwanted(self, pts: int | None) -> bool:
        is_early = pts is not None and self._last_wanted is not None and pts < self._last_wanted
        return is_early and pts not in self._wanted
