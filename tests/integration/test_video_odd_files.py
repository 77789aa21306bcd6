"""Real files that break naive video code behave as their manifest says, at the decoder's level."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import cv2
import numpy as np
import pytest
import pytest_asyncio

from orchestrator.core.letterbox import letterbox_into
from orchestrator.core.types import Sampling
from tests.support.decoding import Reader, decode_segment, open_reader, segment_requests
from tests.support.needs import SHARED_DATA
from tests.support.odd_videos import FILES, MANIFEST, ODD_VIDEOS, Expected

pytestmark = [pytest.mark.needs("shared_data"), pytest.mark.asyncio(loop_scope="module")]

IMGSZ = 640
VERDICTS = {"ok": True, "partial": True, "ok-or-partial": True, "ok-or-limit": True, "reject": False}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader() -> AsyncIterator[Reader]:
    async with open_reader(imgsz=IMGSZ) as opened:
        yield opened


async def test_every_odd_file_is_tried_and_taken_or_refused_as_the_manifest_says() -> None:
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
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
