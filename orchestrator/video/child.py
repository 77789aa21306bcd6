"""A decoder child: does what one socket asks with one file, until that socket closes."""

from __future__ import annotations

import logging
import mmap
import os
import socket
import time
from typing import Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import VideoError
from orchestrator.video.decoding import FrameSource
from orchestrator.video.filling import SlotFiller, WantedFrames, fill_segment
from orchestrator.video.header import read_header
from orchestrator.video.indexing import make_index
from orchestrator.video.messages import (
    MAX_MESSAGE_BYTES,
    STAMP_BYTES,
    Alive,
    DecodeSegment,
    Fill,
    HeaderRead,
    IndexMade,
    MakeIndex,
    ReadHeader,
    Refused,
    from_wire,
    to_wire,
)

ALIVE_EVERY_S: Final = 1.0


def prepare_libraries() -> None:
    """Set what every child inherits: one thread each, and libav's errors kept where they can be counted."""
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    quiet = logging.getLogger("libav")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False


class OrchestratorGone(Exception):
    """The other end of the socket closed."""


class Child:
    """Serves one file. sock: a packet socket. region_fd: the slots, for a child that decodes segments."""

    def __init__(self, sock: socket.socket, file_fd: int, region_fd: int | None) -> None:
        self._sock = sock
        self._file_fd = file_fd
        self._region = None if region_fd is None else _mapped(region_fd)
        self._source: FrameSource | None = None
        self._last_segment = -1
        self._last_sent = time.monotonic()

    def serve(self) -> None:
        """Answer requests until the orchestrator is gone."""
        try:
            while True:
                self._answer()
        except OrchestratorGone:
            return

    def _answer(self) -> None:
        packet, memory_fd = self._receive()
        request = from_wire(packet, ReadHeader, MakeIndex, DecodeSegment, Fill)
        try:
            match request:
                case ReadHeader(limits):
                    header = read_header(self._file_fd, limits, still_alive=self._still_alive)
                    self._send(HeaderRead(header))
                case MakeIndex():
                    self._make_index(request, memory_fd)
                case DecodeSegment():
                    self._decode_segment(request, memory_fd)
                case Fill():
                    # Sent before the orchestrator read that the segment had ended; it has taken the slot back.
                    pass
        except VideoError as exc:
            self._source = None
            self._send(Refused(exc.code, str(exc)))
        finally:
            if memory_fd >= 0:
                os.close(memory_fd)

    def _make_index(self, request: MakeIndex, memory_fd: int) -> None:
        index, report = make_index(self._file_fd, request.limits, still_alive=self._still_alive)
        memory = _mapped(memory_fd)
        flags_at = request.limits.max_frames * STAMP_BYTES
        memory[: len(index) * STAMP_BYTES] = index.pts.view(np.uint8)
        memory[flags_at : flags_at + len(index)] = index.is_key
        base = index.time_base
        self._send(IndexMade(report, base.numerator, base.denominator, index.is_timed))

    def _decode_segment(self, request: DecodeSegment, memory_fd: int) -> None:
        if self._region is None:
            raise ValueError("a child without slots cannot decode a segment")
        stamps = _mapped(memory_fd).view(np.int64)
        if not 0 < request.wanted_frames <= len(stamps):
            raise ValueError(f"{request.wanted_frames} frames are wanted, but {len(stamps)} time stamps came")
        wanted = WantedFrames(stamps[: request.wanted_frames], stamps[request.wanted_frames :])
        goes_on = self._stands_before(request, wanted)
        if self._source is None:
            self._source = FrameSource(
                self._file_fd,
                is_timed=request.is_timed,
                max_frame_pixels=request.max_frame_pixels,
                still_alive=self._still_alive,
            )
        filler = SlotFiller(request, self._region, take_slot=self._take_slot, send=self._send)
        ended = fill_segment(self._source, request, wanted, filler, goes_on=goes_on)
        self._last_segment = request.number
        self._send(ended)

    def _stands_before(self, request: DecodeSegment, wanted: WantedFrames) -> bool:
        """Whether the open source may simply go on: it is before the first frame, and no entry is a short cut."""
        if self._source is None or self._source.last_key is None or self._source.last_key >= wanted.first:
            return False
        has_no_short_cut = not request.entries or request.entries[0] <= self._source.last_key
        return request.number == self._last_segment + 1 or has_no_short_cut

    def _take_slot(self) -> int:
        packet, _ = self._receive()
        return from_wire(packet, Fill).slot

    def _receive(self) -> tuple[bytes, int]:
        """The next packet, and the descriptor that came with it or -1."""
        packet, fds, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE_BYTES, 1)
        if not packet:
            raise OrchestratorGone
        return packet, fds[0] if fds else -1

    def _send(self, message: object) -> None:
        try:
            self._sock.send(to_wire(message))
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise OrchestratorGone from exc
        self._last_sent = time.monotonic()

    def _still_alive(self) -> None:
        if time.monotonic() - self._last_sent >= ALIVE_EVERY_S:
            self._send(Alive())


def _mapped(fd: int) -> NDArray[np.uint8]:
    """The whole of a memory descriptor, shared, uint8 (size,)."""
    return np.frombuffer(mmap.mmap(fd, os.fstat(fd).st_size), dtype=np.uint8)
