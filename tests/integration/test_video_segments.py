"""Decoding segment by segment gives what decoding from first to last gives: every frame once, to the pixel."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import pytest_asyncio
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from orchestrator.core.letterbox import letterbox_into
from orchestrator.core.types import Sampling
from orchestrator.ports import SegmentRequest
from orchestrator.video.decoding import FrameSource
from tests.support.decoding import LIMITS, Reader, Row, decode_segment, open_reader, segment_requests
from tests.support.videos import FRAMES, HEIGHT_PX, WHOLE, WIDTH_PX, VideoSpec, make_video, number_of

# One decoder parent serves all tests here: starting it takes longer than most of them.
pytestmark = pytest.mark.asyncio(loop_scope="module")

SEGMENT_FRAMES = (1, 7, 64, FRAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader() -> AsyncIterator[Reader]:
    async with open_reader() as opened:
        yield opened


def decoded_in_order(path: Path, spec: VideoSpec) -> list[NDArray[np.uint8]]:
    """Upright frames, uint8 (h, w, 3), with nothing of ours between."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in container.decode(video=0)]
    mirrored = [frame[:, ::-1] if spec.is_mirrored else frame for frame in frames]
    return [np.ascontiguousarray(np.rot90(frame, k=-spec.rotation_deg // 90)) for frame in mirrored]


def assert_equal(row: Row, frame: NDArray[np.uint8]) -> None:
    expected = np.empty_like(row.pixels)
    letterbox_into(expected, frame, row.box)
    assert np.array_equal(row.pixels, expected), f"frame {row.index} differs"


async def assert_whole(reader: Reader, requests: Sequence[SegmentRequest], expected: list[NDArray[np.uint8]]) -> None:
    rows: list[Row] = []
    for request in requests:
        some, report = await decode_segment(reader, request)
        assert report.failed == ()
        assert report.frame_errors == 0
        rows += some
    assert sorted(row.index for row in rows) == list(range(len(expected)))
    for row in rows:
        assert_equal(row, expected[row.index])


@pytest.mark.parametrize("spec", WHOLE, ids=lambda spec: spec.file_name)
async def test_segments_of_any_size_give_each_frame_once_and_unchanged(
    spec: VideoSpec, folder: Path, reader: Reader
) -> None:
    path = make_video(spec, folder)
    expected = decoded_in_order(path, spec)
    index, report = await reader.decoders.make_index(path)
    assert report.frame_count == len(expected) == FRAMES
    assert report.warnings == ()
    for size in SEGMENT_FRAMES:
        requests = segment_requests(path, index, segment_frames=size, run_id=f"{spec.file_name} {size}")
        await assert_whole(reader, requests, expected)


@pytest.mark.parametrize("spec", WHOLE, ids=lambda spec: spec.file_name)
async def test_segments_taken_backwards_find_their_entries(spec: VideoSpec, folder: Path, reader: Reader) -> None:
    path = make_video(spec, folder)
    index, _ = await reader.decoders.make_index(path)
    requests = segment_requests(path, index, segment_frames=7, run_id=spec.file_name)
    await assert_whole(reader, requests[::-1], decoded_in_order(path, spec))


@pytest.mark.parametrize("spec", WHOLE, ids=lambda spec: spec.file_name)
async def test_every_frame_stands_upright_and_carries_its_number(spec: VideoSpec, folder: Path, reader: Reader) -> None:
    path = make_video(spec, folder)
    index, _ = await reader.decoders.make_index(path)
    (lead, rest) = segment_requests(path, index, segment_frames=FRAMES, run_id=spec.file_name)
    for request in (lead, rest):
        rows, _ = await decode_segment(reader, request)
        for row in rows:
            box = row.box
            picture = row.pixels[box.pad_y_px :, box.pad_x_px :][: box.resized_h_px, : box.resized_w_px]
            assert number_of(picture) == row.index


@pytest.mark.parametrize(
    "spec", [each for each in WHOLE if each.rotation_deg or each.is_mirrored], ids=lambda spec: spec.file_name
)
async def test_the_header_tells_the_upright_size_and_the_turn(spec: VideoSpec, folder: Path, reader: Reader) -> None:
    header = await reader.decoders.read_header(make_video(spec, folder))
    assert (header.width_px, header.height_px) == (WIDTH_PX, HEIGHT_PX)
    assert (header.rotation_deg, header.is_mirrored) == (spec.rotation_deg, spec.is_mirrored)


async def test_sampled_frames_only_are_given(folder: Path, reader: Reader) -> None:
    path = make_video(WHOLE[1], folder)
    index, _ = await reader.decoders.make_index(path)
    requests = segment_requests(path, index, segment_frames=5, sampling=Sampling(every_nth=9))
    rows = [row for request in requests for row in (await decode_segment(reader, request))[0]]
    assert [row.index for row in rows] == list(range(0, FRAMES, 9))


async def test_time_stamps_of_uneven_frames_are_exact(folder: Path, reader: Reader) -> None:
    spec = next(each for each in WHOLE if each.file_name == "uneven.mkv")
    path = make_video(spec, folder)
    index, report = await reader.decoders.make_index(path)
    assert report.is_vfr
    assert report.notes == ("variable_frame_rate",)
    assert index.pts_ms().tolist() == list(spec.times_ms())


async def test_a_change_of_size_closes_the_batch_and_letterboxes_anew(folder: Path, reader: Reader) -> None:
    spec = next(each for each in WHOLE if each.later_size_px)
    path = make_video(spec, folder)
    index, _ = await reader.decoders.make_index(path)
    requests = segment_requests(path, index, segment_frames=FRAMES)
    rows = [row for request in requests for row in (await decode_segment(reader, request))[0]]
    widths = [row.box.source_w_px for row in rows]
    assert widths == [160] * (FRAMES // 2) + [80] * (FRAMES // 2)


async def test_the_next_segment_goes_on_without_a_new_child(folder: Path) -> None:
    path = make_video(WHOLE[0], folder)
    async with open_reader() as reader:
        index, _ = await reader.decoders.make_index(path)
        requests = segment_requests(path, index, segment_frames=20)
        reports = [(await decode_segment(reader, request))[1] for request in requests]
        # Only the child that waits for more is alive: none was started for segments two to six.
        assert reader.metrics.registry.get_sample_value("trireel_decoders_alive") == 1
    # They all lie behind one entry, the start, though most have a key frame of their own.
    assert [report.entry_pts for report in reports] == [None] * len(requests)
    assert any(request.plan.entry_pts is not None for request in requests)


async def test_children_that_wait_are_bounded(folder: Path) -> None:
    path = make_video(WHOLE[0], folder)
    async with open_reader(most_idle=2) as reader:
        index, _ = await reader.decoders.make_index(path)
        for number in range(5):
            request = segment_requests(path, index, segment_frames=20, run_id=f"run {number}")[0]
            await decode_segment(reader, request)
        assert reader.metrics.registry.get_sample_value("trireel_decoders_alive") == 2
        await reader.decoders.close_run("run 4")
        assert reader.metrics.registry.get_sample_value("trireel_decoders_alive") == 1


async def test_frames_are_let_go_without_a_search_for_cycles(folder: Path) -> None:
    path = make_video(WHOLE[0], folder)
    gc.collect()
    gc.disable()
    try:
        with path.open("rb") as file:
            source = FrameSource(
                file.fileno(), is_timed=True, max_frame_pixels=LIMITS.max_frame_pixels, still_alive=lambda: None
            )
            source.enter(None)
            while (current := source.next()) is not None:
                source.pixels(current[1])
            alive = sum(isinstance(each, VideoFrame) for each in gc.get_objects())
            source.close()
    finally:
        gc.enable()
    assert alive < 10
