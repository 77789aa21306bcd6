"""Real files that break naive video code behave as their manifest says, at the decoder's level."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import pytest_asyncio

from orchestrator.core.letterbox import letterbox_into
from orchestrator.core.types import Sampling
from orchestrator.errors import VideoUnreadableError, VideoWithoutPictureError
from tests.support.decoding import Reader, decode_segment, open_reader, segment_requests
from tests.support.needs import SHARED_DATA

pytestmark = [pytest.mark.needs("shared_data"), pytest.mark.asyncio(loop_scope="module")]

ODD_VIDEOS = SHARED_DATA / "odd_videos"
IMGSZ = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a file that is not refused gives. size_px: of the upright frame. errors: of all its frames."""

    frames: int
    size_px: tuple[int, int]
    failed: int = 0
    has_errors: bool = False
    rotation_deg: int = 0
    is_mirrored: bool = False
    is_vfr: bool = False
    every_nth: int = 1
    segments: int | None = None


FILES = {
    "av1_video.mkv": Expected(frames=125, size_px=(640, 360)),
    "bear-vp9-odd-dimensions.webm": Expected(frames=30, size_px=(161, 121)),
    "broken.mp4": VideoUnreadableError,
    "dolbyVision-hdr.MOV": Expected(frames=4, size_px=(720, 1280), rotation_deg=90),
    "empty.flv": VideoUnreadableError,
    "file+with+data&streams=works?.mp4": Expected(frames=309, size_px=(480, 320)),
    "fixture-null.webm": Expected(frames=36, size_px=(1920, 1080), is_vfr=True),
    "invalid-bitstream.webm": VideoUnreadableError,
    # The first eight of the frames asked for; all of them take minutes on two cores.
    "long_4k_av1.mp4": Expected(frames=21766, size_px=(3840, 2160), every_nth=25, segments=1),
    "no_timescale.mp4": Expected(frames=182, size_px=(320, 240), failed=12, has_errors=True),
    "portrait_4k60.mp4": Expected(frames=18, size_px=(2160, 3840), rotation_deg=90),
    "sample_android_slow_motion.mp4": Expected(frames=7, size_px=(1280, 720), is_vfr=True),
    "sample_audio_only_15s.mp4": VideoWithoutPictureError,
    "sample_partially_fragmented.mp4": Expected(frames=30, size_px=(1080, 720)),
    "sample_rotate_and_reflect.mp4": Expected(frames=30, size_px=(720, 1080), rotation_deg=270, is_mirrored=True),
    "sample_with_invalid_nalu.mp4": Expected(frames=30, size_px=(1080, 720), failed=1, has_errors=True),
    "sideways movie.mov": Expected(frames=25, size_px=(480, 640), rotation_deg=90),
}
VERDICTS = {"ok": True, "partial": True, "ok-or-partial": True, "ok-or-limit": True, "reject": False}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader() -> AsyncIterator[Reader]:
    async with open_reader(imgsz=IMGSZ) as opened:
        yield opened


async def test_every_odd_file_is_tried_and_taken_or_refused_as_the_manifest_says() -> None:
    manifest = json.loads((ODD_VIDEOS / "manifest.json").read_text(encoding="utf-8"))
    assert {each["file"] for each in manifest} == set(FILES)
    for each in manifest:
        assert isinstance(FILES[each["file"]], Expected) == VERDICTS[each["expect"]]


@pytest.mark.parametrize("name", [name for name, expected in FILES.items() if isinstance(expected, Expected)])
async def test_odd_files_give_every_frame_they_have(name: str, reader: Reader) -> None:
    expected = FILES[name]
    assert isinstance(expected, Expected)
    path = ODD_VIDEOS / name
    header = await reader.decoders.read_header(path)
    assert (header.width_px, header.height_px) == expected.size_px
    assert (header.rotation_deg, header.is_mirrored) == (expected.rotation_deg, expected.is_mirrored)
    index, report = await reader.decoders.make_index(path)
    assert (report.frame_count, report.is_vfr) == (expected.frames, expected.is_vfr)
    requests = segment_requests(
        path,
        index,
        segment_frames=64,
        run_id=name,
        sampling=Sampling(every_nth=expected.every_nth),
        imgsz=IMGSZ,
    )
    failed, errors = 0, 0
    for request in requests[: expected.segments]:
        rows, segment = await decode_segment(reader, request)
        assert all((row.box.source_w_px, row.box.source_h_px) == expected.size_px for row in rows)
        failed += len(segment.failed)
        errors += segment.frame_errors
    assert failed == expected.failed
    assert bool(errors) == expected.has_errors


@pytest.mark.parametrize("name", [name for name, expected in FILES.items() if not isinstance(expected, Expected)])
async def test_odd_files_without_pictures_are_refused(name: str, reader: Reader) -> None:
    refusal = FILES[name]
    assert isinstance(refusal, type)
    with pytest.raises(refusal):
        await reader.decoders.read_header(ODD_VIDEOS / name)


PARITY = (
    "videos/car-detection.mp4",
    "videos/one-by-one-person-detection.mp4",
    "odd_videos/bear-vp9-odd-dimensions.webm",
    "odd_videos/dolbyVision-hdr.MOV",
    "odd_videos/sideways movie.mov",
)


@pytest.mark.parametrize("name", PARITY)
async def test_pixels_equal_those_of_opencv(name: str, reader: Reader) -> None:
    path = SHARED_DATA / name
    index, _ = await reader.decoders.make_index(path)
    rows, _ = await decode_segment(reader, segment_requests(path, index, segment_frames=8, run_id=name, imgsz=IMGSZ)[0])
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    for row in rows:
        is_read, bgr = capture.read()
        assert is_read
        expected = np.empty_like(row.pixels)
        letterbox_into(expected, np.ascontiguousarray(bgr[:, :, ::-1]), row.box)
        assert np.array_equal(row.pixels, expected)
    capture.release()
