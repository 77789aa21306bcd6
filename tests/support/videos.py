"""Small videos whose every frame carries its number, in the codecs and containers that people upload.

A number is a row of black and white squares at the top of the upright frame, so it survives every codec. Videos are
made once a test session and shared; nobody writes to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

WIDTH_PX: Final = 160
HEIGHT_PX: Final = 96
FPS: Final = 25
FRAMES: Final = 100
SQUARE_PX: Final = 16
NUMBER_BITS: Final = 8
TIME_BASE: Final = Fraction(1, 1000)
EVEN_GAP_MS: Final = 1000 // FPS
# Keeps test runs readable; SVT-AV1 has no such option and is told by environment.
QUIET_X265: Final = "log-level=none"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """A video to make. rotation_deg: clockwise, as the display matrix says it; stored frames lie the other way."""

    file_name: str
    codec: str
    options: Mapping[str, str] = field(default_factory=dict)
    mux_options: Mapping[str, str] = field(default_factory=dict)
    frames: int = FRAMES
    pts_ms: tuple[int, ...] | None = None
    rotation_deg: int = 0
    is_mirrored: bool = False
    keep_share: float = 1.0
    later_size_px: tuple[int, int] | None = None

    def times_ms(self) -> tuple[int, ...]:
        return self.pts_ms or tuple(range(0, self.frames * EVEN_GAP_MS, EVEN_GAP_MS))


X264: Final = {"preset": "ultrafast", "tune": "fastdecode", "crf": "24"}


def _x264(**params: object) -> dict[str, str]:
    """Options for libx264: a group of 12 frames, without cuts at scene changes, and what else is asked."""
    merged = {"keyint": 12, "min-keyint": 12, "scenecut": 0, **{k.replace("_", "-"): v for k, v in params.items()}}
    return {"preset": "veryfast", "crf": "24", "x264-params": ":".join(f"{k}={v}" for k, v in merged.items())}


UNEVEN_MS: Final = tuple(np.cumsum([0, *([20, 40, 40, 100, 200] * 20)])[:FRAMES].tolist())
CLOSED: Final = _x264(open_gop=0, bframes=0)
B_FRAMES: Final = _x264(open_gop=0, bframes=3)
OPEN: Final = _x264(open_gop=1, bframes=3)
REFRESH: Final = _x264(intra_refresh=1, bframes=0)
X265: Final = {
    "preset": "ultrafast",
    "x265-params": f"keyint=12:min-keyint=12:scenecut=0:bframes=3:open-gop=1:{QUIET_X265}",
}
VP9: Final = {
    "deadline": "realtime",
    "cpu-used": "8",
    "g": "12",
    "lag-in-frames": "8",
    "auto-alt-ref": "1",
    "b": "300k",
}
SVT_AV1: Final = {"preset": "12", "g": "12", "crf": "40"}
MPEG: Final = {"g": "12", "bf": "2", "b": "2000000"}

# Whole videos, in presentation order FRAMES frames each, one number a frame.
WHOLE: Final = (
    VideoSpec(file_name="h264_closed.mp4", codec="libx264", options=CLOSED),
    VideoSpec(file_name="h264_b_frames.mp4", codec="libx264", options=B_FRAMES),
    VideoSpec(file_name="h264_b_frames.mkv", codec="libx264", options=B_FRAMES),
    VideoSpec(file_name="h264_b_frames.avi", codec="libx264", options=B_FRAMES),
    VideoSpec(file_name="h264_b_frames.ts", codec="libx264", options=B_FRAMES),
    VideoSpec(file_name="h264_open.mp4", codec="libx264", options=OPEN),
    VideoSpec(file_name="h264_open.mkv", codec="libx264", options=OPEN),
    VideoSpec(file_name="h264_open.ts", codec="libx264", options=OPEN),
    VideoSpec(file_name="h264_refresh.mp4", codec="libx264", options=REFRESH),
    VideoSpec(file_name="h264_refresh.mkv", codec="libx264", options=REFRESH),
    VideoSpec(file_name="h264_refresh.ts", codec="libx264", options=REFRESH),
    VideoSpec(
        file_name="h264_fragmented.mp4",
        codec="libx264",
        options=B_FRAMES,
        mux_options={"movflags": "frag_keyframe+empty_moov"},
    ),
    VideoSpec(file_name="hevc.mp4", codec="libx265", options=X265),
    VideoSpec(file_name="hevc.mkv", codec="libx265", options=X265),
    VideoSpec(file_name="hevc.ts", codec="libx265", options=X265),
    VideoSpec(file_name="vp8.webm", codec="libvpx", options=VP9),
    VideoSpec(file_name="vp9.webm", codec="libvpx-vp9", options=VP9),
    VideoSpec(file_name="av1.mp4", codec="libsvtav1", options=SVT_AV1),
    VideoSpec(file_name="av1.mkv", codec="libsvtav1", options=SVT_AV1),
    VideoSpec(file_name="mpeg2.mpg", codec="mpeg2video", options=MPEG),
    VideoSpec(file_name="mpeg2.ts", codec="mpeg2video", options=MPEG),
    VideoSpec(file_name="mpeg4.avi", codec="mpeg4", options=MPEG),
    VideoSpec(file_name="mjpeg.avi", codec="mjpeg", options={"b": "4000000"}),
    VideoSpec(file_name="uneven.mp4", codec="libx264", options=B_FRAMES, pts_ms=UNEVEN_MS),
    VideoSpec(file_name="uneven.mkv", codec="libx264", options=B_FRAMES, pts_ms=UNEVEN_MS),
    VideoSpec(file_name="size_changes.ts", codec="libx264", options=B_FRAMES, later_size_px=(WIDTH_PX // 2, HEIGHT_PX)),
    VideoSpec(file_name="rotated_90.mp4", codec="libx264", options=CLOSED, rotation_deg=90),
    VideoSpec(file_name="rotated_180.mp4", codec="libx264", options=CLOSED, rotation_deg=180),
    VideoSpec(file_name="rotated_270.mp4", codec="libx264", options=CLOSED, rotation_deg=270),
    VideoSpec(file_name="mirrored.mp4", codec="libx264", options=CLOSED, is_mirrored=True),
    VideoSpec(file_name="mirrored_90.mp4", codec="libx264", options=CLOSED, rotation_deg=90, is_mirrored=True),
)

# Cut at 60 % of their bytes, as an interrupted copy leaves them.
FAST_START: Final = {"movflags": "faststart"}
CUT: Final = (
    VideoSpec(file_name="cut.mp4", codec="libx264", options=CLOSED, mux_options=FAST_START, keep_share=0.6),
    VideoSpec(file_name="cut.mkv", codec="libx264", options=CLOSED, keep_share=0.6),
    VideoSpec(file_name="cut.webm", codec="libvpx-vp9", options=VP9, keep_share=0.6),
    VideoSpec(file_name="cut.avi", codec="libx264", options=CLOSED, keep_share=0.6),
)


def drawn_frame(number: int, *, width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> NDArray[np.uint8]:
    """The upright frame with this number, uint8 (h, w, 3) RGB: squares over a moving pattern."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    red = 128 + 60 * np.sin((x + 3 * number) / 11.0)
    green = 128 + 60 * np.sin((y - 2 * number) / 7.0)
    blue = 90 + 40 * np.sin((x + y + number) / 17.0)
    frame = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    square = width_px // (NUMBER_BITS + 2)
    for bit in range(NUMBER_BITS + 2):
        # White on the left and black on the right, so that a frame on its head or mirrored cannot be read.
        is_white = bit == 0 or (bit <= NUMBER_BITS and number >> (bit - 1) & 1)
        frame[: 2 * square, bit * square : (bit + 1) * square] = 235 if is_white else 16
    return frame


def number_of(frame: NDArray[np.uint8]) -> int:
    """Read the number of an upright frame, uint8 (h, w, 3). Raises ValueError if it carries none."""
    square = frame.shape[1] // (NUMBER_BITS + 2)
    centres = [(bit * square + square // 2) for bit in range(NUMBER_BITS + 2)]
    levels = [float(frame[square - 2 : square + 2, x - 1 : x + 2].mean()) for x in centres]
    if levels[0] < 180 or levels[-1] > 70 or any(90 < level < 160 for level in levels):
        raise ValueError(f"no number can be read from levels {[round(level) for level in levels]}")
    return sum(1 << bit for bit, level in enumerate(levels[1:-1]) if level > 128)


def make_video(spec: VideoSpec, folder: Path) -> Path:
    """Make the video in `folder`, unless it is there."""
    path = folder / spec.file_name
    if path.exists():
        return path
    with av.open(str(path), "w", options=dict(spec.mux_options)) as container:
        stream = container.add_stream(spec.codec, rate=FPS, options=dict(spec.options))
        _set_size(stream.codec_context, spec, WIDTH_PX, HEIGHT_PX)
        if spec.rotation_deg or spec.is_mirrored:
            # libav turns counter-clockwise, and mirrors after it.
            sign = 1 if spec.is_mirrored else -1
            stream.set_display_rotation(sign * spec.rotation_deg, hflip=spec.is_mirrored)
        for packet in _encoded(spec, stream):
            packet.stream = stream
            container.mux(packet)
    if spec.keep_share < 1:
        with path.open("r+b") as file:
            file.truncate(int(path.stat().st_size * spec.keep_share))
    return path


def _encoded(spec: VideoSpec, stream: VideoStream) -> Iterable[Packet[VideoStream]]:
    numbers = range(spec.frames)
    if spec.later_size_px is None:
        return chain(*(stream.encode(frame) for frame in _frames(spec, numbers, WIDTH_PX, HEIGHT_PX)), stream.encode())
    width, height = spec.later_size_px
    later = VideoCodecContext.create(spec.codec, "w")
    later.options = dict(spec.options)
    later.framerate = Fraction(FPS)
    _set_size(later, spec, width, height)
    half = spec.frames // 2
    return chain(
        *(stream.encode(frame) for frame in _frames(spec, numbers[:half], WIDTH_PX, HEIGHT_PX)),
        stream.encode(),
        *(later.encode(frame) for frame in _frames(spec, numbers[half:], width, height)),
        later.encode(),
    )


def _set_size(context: VideoCodecContext, spec: VideoSpec, width_px: int, height_px: int) -> None:
    swaps_sides = spec.rotation_deg in (90, 270)
    context.width, context.height = (height_px, width_px) if swaps_sides else (width_px, height_px)
    context.pix_fmt = "yuvj420p" if spec.codec == "mjpeg" else "yuv420p"
    context.time_base = Fraction(1, FPS) if spec.pts_ms is None else TIME_BASE
    context.thread_count = 1


def _frames(spec: VideoSpec, numbers: Iterable[int], width_px: int, height_px: int) -> Iterator[VideoFrame]:
    times_ms = spec.times_ms()
    for number in numbers:
        upright = drawn_frame(number, width_px=width_px, height_px=height_px)
        # Undo what the display matrix asks for: it mirrors left to right first, then turns clockwise.
        stored = np.rot90(upright, k=spec.rotation_deg // 90)
        if spec.is_mirrored:
            stored = stored[:, ::-1]
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
        frame.time_base = Fraction(1, FPS) if spec.pts_ms is None else TIME_BASE
        frame.pts = number if spec.pts_ms is None else times_ms[number]
        yield frame
