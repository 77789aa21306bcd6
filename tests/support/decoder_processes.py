"""The processes that decode for this one, and segments that something happens to."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from orchestrator.ports import SegmentRequest
from tests.support.decoding import Reader, segment_requests
from tests.support.videos import FRAMES, VideoSpec

CLIP = VideoSpec(file_name="clip.mp4", codec="mpeg4", options={"g": "12"})


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]


def decoder_parent() -> int:
    """The one decoder parent that this process started."""
    (pid,) = [pid for pid in children_of(os.getpid()) if b"decoder_parent" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def kill_parent() -> None:
    """Kill the decoder parent, and let no child reach its end before the kernel's signal reaches it."""
    parent = decoder_parent()
    for child in children_of(parent):
        os.kill(child, signal.SIGSTOP)
    os.kill(parent, signal.SIGKILL)


async def long_segment(reader: Reader, clip: Path) -> SegmentRequest:
    index, _ = await reader.decoders.make_index(clip)
    return segment_requests(clip, index, segment_frames=FRAMES)[1]


async def read_until_error(reader: Reader, request: SegmentRequest, disturb: Callable[[], None]) -> int:
    """Disturb after the first batch; the number of frames that came before the error."""
    frames = 0
    async with reader.decoders.open_segment(request) as batches:
        while (batch := await batches.next()) is not None:
            if not frames:
                disturb()
            frames += len(batch.stamps)
            reader.slots.give_back(batch.slot)
    raise AssertionError("the segment ended as if nothing had happened")


async def ended(handle: int) -> None:
    """Wait for the end of a process; closes its handle, which becomes readable then."""
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, end.set)
    await asyncio.wait_for(end.wait(), 20)
    loop.remove_reader(handle)
    os.close(handle)
