"""A machine that runs out of descriptors: decoding waits, and blames neither the file nor the decoder."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.errors import DecoderUnavailableError
from orchestrator.ports import SegmentRequest
from tests.support.decoding import Reader, decode_segment, open_reader, segment_requests
from tests.support.videos import FRAMES, VideoSpec, make_video

CLIP = VideoSpec(file_name="clip.mp4", codec="mpeg4", options={"g": "12"})
# A new decoder takes its video and both ends of a socket, and then memory for time stamps where the video was.
DESCRIPTORS_A_DECODER = 3
MOST_SPARE = 30


@contextmanager
def spare_descriptors(count: int) -> Iterator[None]:
    """Only so many more may be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as plugs:
        used = max(int(entry) for entry in os.listdir("/proc/self/fd"))
        while (plug := os.open(os.devnull, os.O_RDONLY)) < used:
            plugs.callback(os.close, plug)
        plugs.callback(os.close, plug)
        resource.setrlimit(resource.RLIMIT_NOFILE, (plug + 1 + count, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def is_lacking(reader: Reader, request: SegmentRequest, *, spare: int) -> bool:
    with spare_descriptors(spare):
        try:
            await decode_segment(reader, request)
        except DecoderUnavailableError:
            return True
    return False


async def test_a_lack_of_descriptors_at_any_call_is_told_as_one_and_passes(tmp_path: Path) -> None:
    clip = make_video(CLIP, tmp_path)
    async with open_reader(most_idle=0) as reader:
        index, _ = await reader.decoders.make_index(clip)
        request = segment_requests(clip, index, segment_frames=FRAMES)[1]
        lacks = [await is_lacking(reader, request, spare=spare) for spare in range(MOST_SPARE)]
        assert lacks == [spare < DESCRIPTORS_A_DECODER for spare in range(MOST_SPARE)]
        rows, _ = await decode_segment(reader, request)
        assert len(rows) == len(request.stamps)


async def test_a_decoder_that_waits_for_more_may_lack_memory_for_the_time_stamps_only(tmp_path: Path) -> None:
    clip = make_video(CLIP, tmp_path)
    async with open_reader() as reader:
        index, _ = await reader.decoders.make_index(clip)
        first, second, *_ = segment_requests(clip, index, segment_frames=FRAMES // 2)
        await decode_segment(reader, first)
        assert await is_lacking(reader, second, spare=0)
        assert not await is_lacking(reader, second, spare=DESCRIPTORS_A_DECODER)
