"""Reading videos in decoder children: the header, the index, and segments batch by batch."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator.core.shortage import shortage_errors
from orchestrator.core.types import FrameIndex, IndexReport, VideoHeader
from orchestrator.errors import DecoderCrashedError, VideoUnreadableError
from orchestrator.ports import SegmentRequest
from orchestrator.settings import VideoLimits
from orchestrator.telemetry import Metrics
from orchestrator.video.children import DECODER_PARENT, END_TIMEOUT_S, DecoderChildren, open_children
from orchestrator.video.decoder_child import DISMISSED, DecoderChild
from orchestrator.video.messages import (
    INDEX_BYTES_PER_FRAME,
    STAMP_BYTES,
    ChildLimits,
    DecodeSegment,
    HeaderRead,
    IndexMade,
    MakeIndex,
    ReadHeader,
)
from orchestrator.video.segment_batches import OpenSegment, check_fits
from orchestrator.video.slots import SlotPool

# Another process may end the run, and nobody tells this one; until then the child keeps a deleted file's disk space.
LONGEST_IDLE_S: Final = 10.0


class Decoders:
    """Implements `VideoReader`. Nothing a file does reaches this process; belongs to one event loop.

    A child that ended a segment stays open for its run for a while, so that the next segment needs no entry.
    """

    def __init__(
        self,
        children: DecoderChildren,
        slots: SlotPool,
        *,
        limits: VideoLimits,
        stall_timeout_s: float,
        most_idle: int,
        longest_idle_s: float,
    ) -> None:
        self._children = children
        self._slots = slots
        self._limits = limits
        self._stall_timeout_s = stall_timeout_s
        self._most_idle = most_idle
        self._longest_idle_s = longest_idle_s
        self._idle: OrderedDict[int, _IdleChild] = OrderedDict()

    async def read_header(self, path: Path) -> VideoHeader:
        """Raises VideoError, DecoderError."""
        with _open_video(path) as fd:
            child = self._children.spawn(fd, with_slots=False)
        try:
            child.send(ReadHeader(self._child_limits()))
            answer = await child.receive(HeaderRead, timeout_s=self._stall_timeout_s)
        finally:
            await child.end(DISMISSED)
        return answer.header

    async def make_index(self, path: Path) -> tuple[FrameIndex, IndexReport]:
        """Raises VideoError, DecoderError."""
        with ExitStack() as stack:
            with _open_video(path) as fd:
                # A frame takes a byte at least, so a small file needs little memory for its index.
                most_frames = min(self._limits.max_frames, os.fstat(fd).st_size)
                memory_fd = stack.enter_context(_open_memory(most_frames * INDEX_BYTES_PER_FRAME))
                child = self._children.spawn(fd, with_slots=False)
            limits = replace(self._child_limits(), max_frames=most_frames)
            try:
                child.send(MakeIndex(limits), [memory_fd])
                answer = await child.receive(IndexMade, timeout_s=self._stall_timeout_s)
                return _read_index(answer, memory_fd, most_frames=most_frames), answer.report
            except ValueError as exc:
                raise DecoderCrashedError(f"a decoder made an impossible index: {exc}") from exc
            finally:
                await child.end(DISMISSED)

    @asynccontextmanager
    async def open_segment(self, request: SegmentRequest) -> AsyncIterator[OpenSegment]:
        """Raises DecoderError, VideoError, FrameTooLargeError. Leaving early ends the child and frees its slots."""
        check_fits(request, self._slots)
        child = self._take_idle(request) or self._spawn(request.path)
        segment = OpenSegment(request, child, self._slots, stall_timeout_s=self._stall_timeout_s)
        try:
            self._begin(child, request)
            yield segment
        finally:
            if segment.is_over and child.is_usable:
                await self._keep_idle(child, request)
            else:
                await child.end(DISMISSED)

    async def close_run(self, run_id: str) -> None:
        """End the children that wait for more segments of this run."""
        for number in [number for number, idle in self._idle.items() if idle.run_id == run_id]:
            # Another task may have ended it while we waited for the one before.
            idle = self._idle.pop(number, None)
            if idle is not None:
                await idle.end()

    def _begin(self, child: DecoderChild, request: SegmentRequest) -> None:
        stamps = np.concatenate([request.wanted_pts, request.short_cuts], dtype=np.int64)
        message = DecodeSegment(
            number=request.plan.number,
            wanted_frames=len(request.wanted_pts),
            entries=() if request.plan.entry_pts is None else (request.plan.entry_pts, *request.earlier_entries),
            is_timed=request.is_timed,
            imgsz=request.imgsz,
            stride=request.stride,
            batch_frames=request.batch_frames,
            slot_bytes=self._slots.slot_bytes,
            max_frame_pixels=self._limits.max_frame_pixels,
        )
        with _open_memory(stamps.nbytes) as memory_fd:
            os.pwrite(memory_fd, stamps.tobytes(), 0)
            child.send(message, [memory_fd])

    def _spawn(self, path: Path) -> DecoderChild:
        with _open_video(path) as fd:
            return self._children.spawn(fd, with_slots=True)

    def _take_idle(self, request: SegmentRequest) -> DecoderChild | None:
        """The child that ended the segment before; else one that waits for the same run and can seek."""
        usable = [idle for idle in self._idle.values() if idle.fits(request)]
        if not usable:
            return None
        best = next((idle for idle in usable if idle.next_segment == request.plan.number), usable[0])
        del self._idle[best.child.number]
        return best.take()

    async def _keep_idle(self, child: DecoderChild, request: SegmentRequest) -> None:
        idle = _IdleChild(child, request.run_id, request.path, request.plan.number + 1)
        self._idle[child.number] = idle
        idle.expire_in(self._longest_idle_s, self._dismiss)
        while len(self._idle) > self._most_idle:
            _, oldest = self._idle.popitem(last=False)
            await oldest.end()

    def _dismiss(self, idle: _IdleChild) -> None:
        """Have it killed; its slots and its number are given up when it is known dead."""
        del self._idle[idle.child.number]
        self._children.kill(idle.child, DISMISSED)

    def _child_limits(self) -> ChildLimits:
        return ChildLimits(
            max_duration_s=self._limits.max_duration_s,
            max_frame_pixels=self._limits.max_frame_pixels,
            max_fps=self._limits.max_fps,
            max_frames=self._limits.max_frames,
        )


class _IdleChild:
    """A child between two segments of a run. Whoever takes it out of `Decoders` calls `take` or `end`."""

    def __init__(self, child: DecoderChild, run_id: str, path: Path, next_segment: int) -> None:
        self.child = child
        self.run_id = run_id
        self.path = path
        self.next_segment = next_segment
        self._expiry: asyncio.TimerHandle | None = None

    def expire_in(self, longest_idle_s: float, on_expiry: Callable[[_IdleChild], None]) -> None:
        """Call back after so long, unless it is taken or ended before."""
        self._expiry = asyncio.get_running_loop().call_later(longest_idle_s, on_expiry, self)

    def take(self) -> DecoderChild:
        if self._expiry is not None:
            self._expiry.cancel()
        return self.child

    async def end(self) -> None:
        await self.take().end(DISMISSED)

    def fits(self, request: SegmentRequest) -> bool:
        return self.child.is_usable and self.run_id == request.run_id and self.path == request.path


@asynccontextmanager
async def open_decoders(
    *,
    limits: VideoLimits,
    stall_timeout_s: float,
    slots: SlotPool,
    metrics: Metrics,
    most_idle: int,
    longest_idle_s: float = LONGEST_IDLE_S,
    end_timeout_s: float = END_TIMEOUT_S,
    parent_module: str = DECODER_PARENT,
) -> AsyncIterator[Decoders]:
    """Decoders whose children all end with the context.

    most_idle, longest_idle_s: children kept between segments, over all runs, and for how long each. end_timeout_s,
    parent_module: see `open_children`.
    """
    async with open_children(
        memory_bytes=limits.decoder_memory_bytes,
        slots=slots,
        metrics=metrics,
        end_timeout_s=end_timeout_s,
        parent_module=parent_module,
    ) as children:
        yield Decoders(
            children,
            slots,
            limits=limits,
            stall_timeout_s=stall_timeout_s,
            most_idle=most_idle,
            longest_idle_s=longest_idle_s,
        )


@contextmanager
def _open_video(path: Path) -> Iterator[int]:
    """A descriptor of the file, read-only.

    Raises VideoUnreadableError for anything but a file with something in it, DecoderUnavailableError.
    """
    try:
        with shortage_errors():
            # Without O_NONBLOCK opening a FIFO would wait for a writer.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise VideoUnreadableError(f"its file cannot be opened ({exc.strerror})") from exc
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise VideoUnreadableError("it is no regular file")
        if status.st_size == 0:
            raise VideoUnreadableError("its file is empty")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _open_memory(byte_size: int) -> Iterator[int]:
    """Memory to share with a child, of a size that neither side can change. Raises DecoderUnavailableError."""
    with shortage_errors():
        fd = os.memfd_create("trireel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, byte_size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        yield fd
    finally:
        os.close(fd)


def _read_index(answer: IndexMade, memory_fd: int, *, most_frames: int) -> FrameIndex:
    """Copy an index out of memory made for `most_frames`. Raises ValueError if the child's figures cannot be."""
    count = answer.report.frame_count
    if not 0 < count <= most_frames or answer.time_base_num < 1 or answer.time_base_den < 1:
        raise ValueError(f"{count} frames, {answer.time_base_num}/{answer.time_base_den} s a tick")
    pts = np.frombuffer(os.pread(memory_fd, count * STAMP_BYTES, 0), dtype=np.int64)
    flags = np.frombuffer(os.pread(memory_fd, count, most_frames * STAMP_BYTES), dtype=np.uint8)
    if (np.diff(pts) < 0).any():
        raise ValueError("its time stamps run backwards")
    time_base = Fraction(answer.time_base_num, answer.time_base_den)
    return FrameIndex(pts, flags != 0, time_base, is_timed=answer.is_timed)
