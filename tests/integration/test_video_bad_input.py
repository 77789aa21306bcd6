"""Files that are no ordinary videos: each gets an answer with a code, and none reaches anything but itself."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import pytest_asyncio
from av.audio.frame import AudioFrame

from orchestrator.errors import (
    TrireelError,
    VideoEncryptedError,
    VideoError,
    VideoOverLimitError,
    VideoUnreadableError,
    VideoWithoutPictureError,
)
from tests.support.decoding import LIMITS, Reader, decode_segment, open_reader, segment_requests
from tests.support.videos import CUT, FRAMES, HEIGHT_PX, WHOLE, WIDTH_PX, VideoSpec, make_video

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIP = VideoSpec(file_name="clip.mp4", codec="mpeg4", options={"g": "12"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader() -> AsyncIterator[Reader]:
    async with open_reader() as opened:
        yield opened


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return make_video(CLIP, folder)


def make_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


async def refusal(reader: Reader, path: Path) -> TrireelError:
    with pytest.raises(VideoError) as caught:
        await reader.decoders.read_header(path)
    with pytest.raises(type(caught.value)):
        await reader.decoders.make_index(path)
    return caught.value


@pytest.mark.parametrize("content", [b"", b"\0", b"no video at all\n" * 100, b"\0\0\0\x18ftypmp42" + bytes(4000)])
async def test_what_is_no_video_is_unreadable(content: bytes, tmp_path: Path, reader: Reader) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    assert isinstance(await refusal(reader, path), VideoUnreadableError)


async def test_what_is_no_file_is_unreadable(tmp_path: Path, reader: Reader) -> None:
    fifo = tmp_path / "fifo.mp4"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo, tmp_path / "missing.mp4"):
        assert isinstance(await refusal(reader, path), VideoUnreadableError)


async def test_sound_has_no_picture(tmp_path: Path, reader: Reader) -> None:
    assert isinstance(await refusal(reader, make_sound(tmp_path / "sound.m4a")), VideoWithoutPictureError)


async def test_an_encrypted_file_is_told_apart_from_a_damaged_one(tmp_path: Path, reader: Reader) -> None:
    spec = VideoSpec(
        file_name="encrypted.mp4",
        codec="libx264",
        mux_options={"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76" * 16, "encryption_kid": "a7" * 16},
    )
    with pytest.raises(VideoEncryptedError):
        await reader.decoders.read_header(make_video(spec, tmp_path))


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile {canary}\n",
    "concat of a relative name": "ffconcat version 1.0\nfile canary.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:4.0,\n{canary}\n#EXT-X-ENDLIST\n",
    "hls over http": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:4.0,\n{url}\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    "<AdaptationSet><Representation><BaseURL>{canary}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".avi"])
@pytest.mark.parametrize("kind", PLAYLISTS)
async def test_no_playlist_reaches_another_file_or_host(
    kind: str, suffix: str, tmp_path: Path, clip: Path, reader: Reader
) -> None:
    canary = tmp_path / "canary.mp4"
    shutil.copyfile(clip, canary)
    # Long ago, so that any reading would move it, however the disk is mounted but for noatime.
    os.utime(canary, ns=(0, 1))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        playlist = tmp_path / f"list{suffix}"
        playlist.write_text(PLAYLISTS[kind].format(canary=canary, port=port, url=f"http://127.0.0.1:{port}/a.ts"))
        assert isinstance(await refusal(reader, playlist), VideoUnreadableError)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert canary.stat().st_atime_ns == 0


async def test_names_of_image_sequences_are_only_names(tmp_path: Path, clip: Path, reader: Reader) -> None:
    path = tmp_path / "frame%03d.mp4"
    shutil.copyfile(clip, path)
    header = await reader.decoders.read_header(path)
    assert (header.width_px, header.height_px) == (WIDTH_PX, HEIGHT_PX)


@pytest.mark.parametrize("spec", CUT, ids=lambda spec: spec.file_name)
async def test_a_file_cut_at_60_percent_warns_and_gives_what_it_has(
    spec: VideoSpec, folder: Path, reader: Reader
) -> None:
    path = make_video(spec, folder)
    index, report = await reader.decoders.make_index(path)
    assert set(report.warnings) & {"input_ends_early", "demux_errors"}
    rows = []
    for request in segment_requests(path, index, segment_frames=FRAMES, run_id=spec.file_name):
        rows += (await decode_segment(reader, request))[0]
    assert FRAMES // 3 < len(rows) < FRAMES


async def test_damage_within_a_file_is_counted_and_no_frame_is_lost_from_the_ledger(
    folder: Path, tmp_path: Path, reader: Reader
) -> None:
    path = tmp_path / "damaged.ts"
    content = bytearray(make_video(next(s for s in WHOLE if s.file_name == "h264_b_frames.ts"), folder).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = os.urandom(1500)
    path.write_bytes(content)
    index, _ = await reader.decoders.make_index(path)
    reports = [
        (await decode_segment(reader, request))[1]
        for request in segment_requests(path, index, segment_frames=FRAMES, run_id="damaged")
    ]
    assert sum(report.frame_errors for report in reports) > 0


LOW = {
    "pixels": replace(LIMITS, max_frame_pixels=WIDTH_PX * HEIGHT_PX - 1),
    "frames": replace(LIMITS, max_frames=FRAMES - 1),
    "duration": replace(LIMITS, max_duration_s=3.9),
    "rate": replace(LIMITS, max_fps=24),
}


@pytest.mark.parametrize("limit", LOW)
async def test_limits_are_kept(limit: str, clip: Path) -> None:
    async with open_reader(limits=LOW[limit]) as reader:
        with pytest.raises(VideoOverLimitError):
            await reader.decoders.make_index(clip)


async def test_a_file_at_its_limits_is_taken(clip: Path) -> None:
    limits = replace(
        LIMITS, max_frame_pixels=WIDTH_PX * HEIGHT_PX, max_frames=FRAMES, max_duration_s=4, max_fps=25.0001
    )
    async with open_reader(limits=limits) as reader:
        index, _ = await reader.decoders.make_index(clip)
    assert len(index) == FRAMES


async def test_frames_that_grow_over_the_limit_are_never_decoded(tmp_path: Path) -> None:
    spec = VideoSpec(file_name="grows.ts", codec="libx264", options={"preset": "ultrafast"}, later_size_px=(640, 480))
    path = make_video(spec, tmp_path)
    async with open_reader(limits=replace(LIMITS, max_frame_pixels=WIDTH_PX * HEIGHT_PX)) as reader:
        index, _ = await reader.decoders.make_index(path)
        rows, failed = [], 0
        for request in segment_requests(path, index, segment_frames=FRAMES):
            some, report = await decode_segment(reader, request)
            rows += some
            failed += len(report.failed)
    assert {(row.box.source_w_px, row.box.source_h_px) for row in rows} == {(WIDTH_PX, HEIGHT_PX)}
    assert failed == FRAMES // 2
