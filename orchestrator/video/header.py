"""Reading what a file says of itself, and proving it by one decoded frame; runs in a decoder child."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from orchestrator.core.types import VideoHeader
from orchestrator.errors import VideoEncryptedError, VideoOverLimitError, VideoUnreadableError
from orchestrator.video.colour import is_hdr
from orchestrator.video.containers import open_container, picture_stream
from orchestrator.video.decoding import display_matrix
from orchestrator.video.messages import ChildLimits
from orchestrator.video.orientation import orientation_of

# A stream may begin in the middle of a group of pictures; one whose first 1,000 packets hold no frame has none.
PACKETS_TO_FIRST_FRAME: Final = 1000


def read_header(fd: int, limits: ChildLimits, *, still_alive: Callable[[], None]) -> VideoHeader:
    """Raises VideoError when no frame of the file can be had."""
    with open_container(fd, max_frame_pixels=limits.max_frame_pixels) as container:
        stream = picture_stream(container, max_frame_pixels=limits.max_frame_pixels)
        frame = _first_frame(container, stream, still_alive=still_alive)
        if frame.width * frame.height > limits.max_frame_pixels:
            raise VideoOverLimitError(
                f"its frames have {frame.width}x{frame.height} pixels, over the limit; upload a smaller copy"
            )
        orientation = orientation_of(display_matrix(frame))
        width_px, height_px = orientation.upright_size(frame.width, frame.height)
        rate = stream.average_rate
        return VideoHeader(
            container=container.format.name.split(",")[0],
            codec=stream.codec_context.codec.canonical_name,
            width_px=width_px,
            height_px=height_px,
            rotation_deg=orientation.rotation_deg,
            is_mirrored=orientation.is_mirrored,
            duration_s_hint=duration_s_hint(container, stream),
            fps_hint=float(rate) if rate else None,
            notes=_notes(frame),
        )


def duration_s_hint(container: InputContainer, stream: VideoStream) -> float | None:
    """The declared length of the video stream, or of the whole file where only that is declared; seconds."""
    if stream.duration and stream.time_base and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    if container.duration and container.duration > 0:
        return container.duration / av.time_base
    return None


def _first_frame(container: InputContainer, stream: VideoStream, *, still_alive: Callable[[], None]) -> VideoFrame:
    for number, packet in enumerate(container.demux(stream)):
        still_alive()
        if packet.has_sidedata("encryption_info") or packet.has_sidedata("encryption_init_info"):
            raise VideoEncryptedError("its frames are encrypted; give a file without copy protection")
        with suppress(av.InvalidDataError):
            for frame in packet.decode():
                return frame
        if number == PACKETS_TO_FIRST_FRAME:
            break
    raise VideoUnreadableError("not one frame of it decodes; check that the file plays, or convert it to H.264")


def _notes(frame: VideoFrame) -> tuple[str, ...]:
    notes = []
    if is_hdr(frame):
        notes.append("hdr")
    if frame.interlaced_frame:
        notes.append("interlaced")
    return tuple(notes)
