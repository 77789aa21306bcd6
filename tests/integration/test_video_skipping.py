"""What need not be decoded is not, and whatever is left out changes no pixel and loses no frame."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import pytest
import pytest_asyncio
from av.video.frame import VideoFrame

from orchestrator.core.types import FrameIndex, Sampling
from orchestrator.video.decoding import FrameSource
from orchestrator.video.filling import SlotFiller, WantedFrames, fill_segment
from orchestrator.video.messages import BatchFilled, DecodeSegment
from tests.support.decoding import (
    BATCH_FRAMES,
    IMGSZ,
    LIMITS,
    STRIDE,
    Reader,
    decode_segment,
    open_reader,
    segment_requests,
)
from tests.support.needs import SHARED_DATA
from tests.support.videos import B_FRAMES, FRAMES, WHOLE, VideoSpec, make_video

# One decoder parent serves all tests here: starting it takes longer than most of them.
on_module_loop = pytest.mark.asyncio(loop_scope="module")

# The last ones are longer than the videos' groups of 12 frames.
STRIDES = (2, 7, 12, 20, 45)
SEGMENT_FRAMES = (4, 64)
INTERLACED = VideoSpec(
    file_name="interlaced.mp4",
    codec="libx264",
    options={**B_FRAMES, "x264-params": f"{B_FRAMES['x264-params']}:tff=1"},
)
KINDS = (*WHOLE, INTERLACED)
BY_NAME = {spec.file_name: spec for spec in KINDS}
# But for one whose colours take seconds a frame, and whose four frames depend on each other.
ODD_FILES = (
    "av1_video.mkv",
    "bear-vp9-odd-dimensions.webm",
    "file+with+data&streams=works?.mp4",
    "fixture-null.webm",
    "long_4k_av1.mp4",
    "no_timescale.mp4",
    "portrait_4k60.mp4",
    "sample_android_slow_motion.mp4",
    "sample_partially_fragmented.mp4",
    "sample_rotate_and_reflect.mp4",
    "sample_with_invalid_nalu.mp4",
    "sideways movie.mov",
)
# Of the long one the beginning: all of it takes minutes.
ODD_END_MS = 400.0
ODD_IMGSZ = 640


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader() -> AsyncIterator[Reader]:
    async with open_reader(imgsz=ODD_IMGSZ) as opened:
        yield opened


async def digests(
    reader: Reader, path: Path, index: FrameIndex, sampling: Sampling, *, segment_frames: int, imgsz: int
) -> dict[int, str]:
    """SHA-256 of each sampled frame's letterboxed pixels, by source index."""
    found = {}
    run_id = f"{path} {sampling} {segment_frames}"
    requests = segment_requests(
        path, index, segment_frames=segment_frames, run_id=run_id, sampling=sampling, imgsz=imgsz
    )
    for request in requests:
        rows, _ = await decode_segment(reader, request)
        found.update({row.index: sha256(row.pixels.tobytes()).hexdigest() for row in rows})
    return found


async def assert_same_pixels(
    reader: Reader,
    path: Path,
    *,
    strides: Sequence[int] = STRIDES,
    segment_frames: Sequence[int] = SEGMENT_FRAMES,
    imgsz: int = IMGSZ,
    end_ms: float | None = None,
) -> None:
    """Sampled frames are those that come when every frame is wanted, and nothing can be left out."""
    index, _ = await reader.decoders.make_index(path)
    every = await digests(reader, path, index, Sampling(end_ms=end_ms), segment_frames=64, imgsz=imgsz)
    assert every
    for nth in strides:
        sampling = Sampling(every_nth=nth, end_ms=end_ms)
        for size in segment_frames:
            some = await digests(reader, path, index, sampling, segment_frames=size, imgsz=imgsz)
            assert some == {position: digest for position, digest in every.items() if position % nth == 0}


@on_module_loop
@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.file_name)
async def test_sampled_frames_are_the_same_to_the_pixel(spec: VideoSpec, folder: Path, reader: Reader) -> None:
    await assert_same_pixels(reader, make_video(spec, folder))


@on_module_loop
@pytest.mark.parametrize("name", ["h264_open.mp4", "hevc.ts", "mpeg2.mpg", "av1.mkv", "h264_refresh.mp4"])
async def test_sampling_that_starts_late_gives_the_same_frames(name: str, folder: Path, reader: Reader) -> None:
    path = make_video(BY_NAME[name], folder)
    index, _ = await reader.decoders.make_index(path)
    every = await digests(reader, path, index, Sampling(), segment_frames=64, imgsz=IMGSZ)
    late = await digests(reader, path, index, Sampling(start_ms=2500), segment_frames=64, imgsz=IMGSZ)
    assert late == {position: digest for position, digest in every.items() if index.pts_ms()[position] >= 2500}


@on_module_loop
@pytest.mark.needs("shared_data")
@pytest.mark.parametrize("name", ODD_FILES)
async def test_sampled_frames_of_odd_files_are_the_same_to_the_pixel(name: str, reader: Reader) -> None:
    end_ms = ODD_END_MS if name.startswith("long") else None
    path = SHARED_DATA / "odd_videos" / name
    await assert_same_pixels(reader, path, strides=[5], segment_frames=[4], imgsz=ODD_IMGSZ, end_ms=end_ms)


class LosingSource(FrameSource):
    """Loses one frame as long as others may be left out, as a decoder does whose reordering is upset."""

    lost: int | None = None

    def next(self) -> tuple[int, VideoFrame] | None:
        current = super().next()
        if current is not None and current[0] == self.lost and self.has_left_out:
            return super().next()
        return current


@contextmanager
def open_source(
    path: Path, *, is_timed: bool = True, on_packet: Callable[[], None] = lambda: None
) -> Iterator[LosingSource]:
    fd = os.open(path, os.O_RDONLY)
    source = LosingSource(fd, is_timed=is_timed, max_frame_pixels=LIMITS.max_frame_pixels, still_alive=on_packet)
    try:
        yield source
    finally:
        source.close()
        os.close(fd)


def fill(source: FrameSource, wanted: Sequence[int], short_cuts: Sequence[int] = ()) -> list[int]:
    """Decode one segment from the start of the file on; the positions of what came, in order."""
    request = DecodeSegment(
        number=0,
        wanted_frames=len(wanted),
        entries=(),
        is_timed=True,
        imgsz=IMGSZ,
        stride=STRIDE,
        batch_frames=BATCH_FRAMES,
        slot_bytes=BATCH_FRAMES * IMGSZ * IMGSZ * 3,
        max_frame_pixels=LIMITS.max_frame_pixels,
    )
    sent: list[BatchFilled] = []
    filler = SlotFiller(request, np.zeros(request.slot_bytes, np.uint8), take_slot=lambda: 0, send=sent.append)
    frames = WantedFrames(np.array(wanted, np.int64), np.array(short_cuts, np.int64))
    ended = fill_segment(source, request, frames, filler, goes_on=False)
    assert ended.frame_errors == 0
    return [position for batch in sent for position in batch.positions]


def presented(path: Path) -> list[int]:
    """Time stamps in ticks, in order."""
    with av.open(str(path)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    return sorted(pts for pts in stamps if pts is not None)


def given_out(source: FrameSource) -> list[int]:
    """Keys of all the frames that come from the start of the file on."""
    source.enter(None)
    keys = []
    while (current := source.next()) is not None:
        keys.append(current[0])
    return keys


@pytest.mark.parametrize("name", ["h264_b_frames.mp4", "h264_b_frames.ts", "mpeg2.ts", "uneven.mkv"])
def test_frames_that_nobody_wants_or_refers_to_are_not_decoded(name: str, folder: Path) -> None:
    path = make_video(BY_NAME[name], folder)
    keys = presented(path)
    wanted = keys[:80:20]
    with open_source(path) as source:
        source.want(np.array(wanted))
        found = given_out(source)
    assert set(wanted) <= set(found)
    before = [key for key in keys if key < wanted[-1]]
    assert len(set(found) & set(before)) < 0.75 * len(before)
    # The next segment may want any frame behind the last one.
    assert [key for key in found if key >= wanted[-1]] == [key for key in keys if key >= wanted[-1]]


@pytest.mark.parametrize("name", ["hevc.mp4", "vp9.webm", "av1.mp4", "h264_closed.mp4", "interlaced.mp4"])
def test_every_frame_is_decoded_where_another_may_refer_to_it(name: str, folder: Path) -> None:
    path = make_video(BY_NAME[name], folder)
    keys = presented(path)
    with open_source(path) as source:
        source.want(np.array([keys[0], keys[-1]]))
        assert given_out(source) == keys


def test_every_frame_is_decoded_where_packets_do_not_tell_their_times(folder: Path) -> None:
    path = make_video(BY_NAME["h264_b_frames.avi"], folder)
    with open_source(path, is_timed=False) as source:
        source.want(np.array([0, FRAMES - 1]))
        assert given_out(source) == list(range(FRAMES))


def test_a_frame_that_is_lost_by_leaving_others_out_is_decoded_again(folder: Path) -> None:
    path = make_video(BY_NAME["h264_b_frames.mp4"], folder)
    keys = presented(path)
    with open_source(path) as source:
        source.lost = keys[50]
        assert fill(source, keys[::10]) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 5]
        # From now on nothing is left out of this file.
        assert given_out(source) == keys


@pytest.mark.parametrize("name", ["h264_b_frames.mp4", "h264_open.mkv", "hevc.mp4", "vp9.webm", "av1.mkv"])
def test_groups_without_a_wanted_frame_are_not_read(name: str, folder: Path) -> None:
    path = make_video(BY_NAME[name], folder)
    keys = presented(path)
    packets_read = 0

    def count() -> None:
        nonlocal packets_read
        packets_read += 1

    with open_source(path, on_packet=count) as source:
        # Groups have 12 frames: the last one wanted lies in the group that begins at 72.
        assert fill(source, [keys[1], keys[74]], [keys[72]]) == [0, 1]
    assert packets_read < 24


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("h264_closed.mp4", 24), ("h264_b_frames.mkv", 24), ("h264_b_frames.ts", 36), ("mpeg2.mpg", 36)],
)
def test_short_cuts_lead_ahead_of_all_that_was_read(name: str, nearest: int, folder: Path) -> None:
    """In a transport stream a seek leads to somewhat before the key frame."""
    path = make_video(BY_NAME[name], folder)
    keys = presented(path)
    with open_source(path) as source:
        source.enter(None)
        while (current := source.next()) is not None and current[0] < keys[12]:
            pass
        assert next(each for each in range(0, FRAMES, 12) if source.may_jump(keys[each])) == nearest


@pytest.mark.parametrize("name", ["h264_refresh.mp4", "h264_refresh.mkv"])
def test_where_a_short_cut_loses_the_frame_all_is_read(name: str, folder: Path) -> None:
    """No picture of such a file is whole but the first: a refresh makes one bit by bit."""
    path = make_video(BY_NAME[name], folder)
    keys = presented(path)
    with open_source(path) as source:
        assert fill(source, keys[::20], [keys[36]]) == [0, 1, 2, 3, 4]
        assert source.entry is None
        assert not source.may_jump(keys[99])
