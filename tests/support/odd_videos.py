"""Seventeen real files that break naive video code, and what each of them gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import VideoError, VideoUnreadableError, VideoWithoutPictureError
from tests.support.needs import SHARED_DATA

ODD_VIDEOS: Final = SHARED_DATA / "odd_videos"
MANIFEST: Final = ODD_VIDEOS / "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a file that is not refused gives. size_px: of the upright frame.

    failed: of the frames asked for, which are every `every_nth`. segments: of these, the first that a test of the
    decoder alone tries; None for all.
    """

    frames: int
    size_px: tuple[int, int]
    failed: int = 0
    has_errors: bool = False
    rotation_deg: int = 0
    is_mirrored: bool = False
    is_vfr: bool = False
    every_nth: int = 1
    segments: int | None = None

    @property
    def asked_for(self) -> int:
        return len(range(0, self.frames, self.every_nth))


FILES: Final[Mapping[str, Expected | type[VideoError]]] = {
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
