"""Frames of one video, one after the other, from an entry on; runs in a decoder child.

Nothing here knows of slots or sockets. A frame's key is its time stamp in ticks, or its position in output order
where the index is not timed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from orchestrator.errors import VideoOverLimitError
from orchestrator.video.colour import RgbConverter
from orchestrator.video.containers import open_container, picture_stream
from orchestrator.video.orientation import orientation_of
from orchestrator.video.skipping import FrameSkipper


def display_matrix(frame: VideoFrame) -> bytes | None:
    """The display matrix that the container or the frame itself declares."""
    # `frame.side_data` is kept in the frame and keeps the frame, so that hundreds of frames would live until Python
    # looks for cycles (seen with PyAV 18.1).
    found = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg]  # the stub has no parameters
    return None if found is None else bytes(found)


# Containers without an index of key frames: libav looks for the decoding time, and stops in the middle of a group.
WITHOUT_KEY_INDEX: Final = frozenset({"mpegts", "mpeg"})
# Frames that a picture can be decoded before it is shown: the size of the picture buffer in H.264 and HEVC.
DEEPEST_REORDERING: Final = 16


def _seek_lead(container: InputContainer, stream: VideoStream) -> int:
    """How much before an entry to seek, in ticks, so that its key frame is not passed by."""
    if container.format.name not in WITHOUT_KEY_INDEX or not stream.average_rate or not stream.time_base:
        return 0
    return round(DEEPEST_REORDERING / stream.average_rate / stream.time_base)


class FrameSource:
    """Decodes one video in output order. Owns the container it opens; `fd` belongs to the caller.

    still_alive: called for each packet. entry: where the frames given out began. last_key: every frame up to it has
    been given out, None where nothing has. frame_errors: packets that gave an error and frames marked corrupt.
    """

    def __init__(self, fd: int, *, is_timed: bool, max_frame_pixels: int, still_alive: Callable[[], None]) -> None:
        self._fd = fd
        self._is_timed = is_timed
        self._max_frame_pixels = max_frame_pixels
        self._still_alive = still_alive
        self._open: tuple[InputContainer, VideoStream] | None = None
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._ready: deque[VideoFrame] = deque()
        self._held: tuple[int, VideoFrame] | None = None
        self._ordinal = 0
        self._furthest: int | None = None
        self._awaited: int | None = None
        self._converter = RgbConverter()
        self._skipper = FrameSkipper()
        self.entry: int | None = None
        self.last_key: int | None = None
        self.frame_errors = 0

    @property
    def has_left_out(self) -> bool:
        """Whether frames that nobody wants were left out since the entry; decoding all may give more."""
        return self._skipper.has_left_out

    def want(self, keys: NDArray[np.int64]) -> None:
        """The frames (S,) that the coming segment wants; others before the last of them may be left out."""
        if self._is_timed:
            self._skipper.want(keys.tolist())

    def leave_nothing_out(self) -> None:
        """From the next entry on decode every frame."""
        self._skipper.give_up()

    def enter(self, entry: int | None) -> bool:
        """Go to the key frame at `entry` (ticks), or to the first byte of the file; False where no seek leads there.

        Frames before the entry are never given out: they may refer to frames that were not decoded.
        """
        container, stream = self._reopened() if entry is None or self._open is None else self._open
        if entry is not None:
            try:
                container.seek(entry - _seek_lead(container, stream), stream=stream)
            except av.FFmpegError:
                return False
        self._packets = container.demux(stream)
        self._ready.clear()
        self._held = None
        self._ordinal = 0
        self._furthest = None
        self._awaited = entry
        self._skipper.begin()
        self.entry = entry
        self.last_key = None
        self.frame_errors = 0
        return True

    def may_jump(self, entry: int) -> bool:
        """Whether a seek to the key frame at `entry` leads ahead of all that was read, and is still worth trying."""
        if self._open is None or self._furthest is None or self._skipper.is_given_up:
            return False
        return self._furthest < entry - _seek_lead(*self._open)

    def jump(self, entry: int) -> bool:
        """As `enter`, and what lies between here and there counts as left out."""
        is_there = self.enter(entry)
        self._skipper.leave_out()
        return is_there

    def next(self) -> tuple[int, VideoFrame] | None:
        """The next frame with its key, None where no more can be had. Raises VideoError."""
        if self._held is not None:
            held, self._held = self._held, None
            self.last_key = held[0]
            return held
        while not self._skipper.is_spoiled:
            while self._ready:
                frame = self._ready.popleft()
                key = self._key(frame)
                if key is not None and (self.entry is None or key >= self.entry):
                    self.last_key = key
                    return key, frame
            self._still_alive()
            packet = self._next_packet()
            if packet is None:
                return None
            if not self._lies_before_entry(packet):
                self._ready.extend(self._decode(packet))
        return None

    def hold(self, key: int, frame: VideoFrame) -> None:
        """Take back the frame that `next` gave last; it is the next one again."""
        self._held = (key, frame)
        self.last_key = key - 1

    def pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The upright frame, uint8 (h, w, 3) RGB; valid until the next call."""
        return orientation_of(display_matrix(frame)).upright(self._converter.pixels(frame))

    def close(self) -> None:
        if self._open is not None:
            self._open[0].close()
            self._open = None

    def _reopened(self) -> tuple[InputContainer, VideoStream]:
        self.close()
        container = open_container(self._fd, max_frame_pixels=self._max_frame_pixels)
        self._open = container, picture_stream(container, max_frame_pixels=self._max_frame_pixels)
        return self._open

    def _next_packet(self) -> Packet[VideoStream] | None:
        try:
            packet = next(self._packets, None)
            if packet is not None and packet.pts is not None:
                self._furthest = packet.pts if self._furthest is None else max(packet.pts, self._furthest)
            return packet
        except av.InvalidDataError:
            # Nothing more can be demuxed; an empty packet fetches what the decoder still holds.
            self.frame_errors += 1
            if self._open is None:
                return None
            flush = cast("Packet[VideoStream]", Packet())
            flush.stream = self._open[1]
            return flush

    def _lies_before_entry(self, packet: Packet[VideoStream]) -> bool:
        """Whether a seek led before the entry, and the packet is still on the way to it."""
        if self._awaited is not None and (packet.pts is None or packet.pts >= self._awaited):
            self._awaited = None
        return self._awaited is not None

    def _key(self, frame: VideoFrame) -> int | None:
        if self._is_timed:
            return frame.pts
        self._ordinal += 1
        return self._ordinal - 1

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if self._open is not None:
            self._skipper.prepare(self._open[1].codec_context, packet)
        with av.logging.Capture() as complaints:
            try:
                frames = packet.decode()
            except av.error.MemoryError:
                raise
            except av.FFmpegError:
                frames = []
                complaints.append((av.logging.ERROR, "", ""))
        errors = bool(complaints) + sum(frame.is_corrupt for frame in frames)
        self.frame_errors += errors
        # What goes wrong before the first frame concerns those that an entry in the middle cannot give.
        self._skipper.judge(frames, is_damaged=errors > 0 and self.last_key is not None)
        for frame in frames:
            if frame.width * frame.height > self._max_frame_pixels:
                raise VideoOverLimitError(
                    f"a frame of {frame.width}x{frame.height} pixels is over the limit; upload a smaller copy"
                )
        return frames
