"""Opening a video through its descriptor, so that nothing in it can name another file; runs in a decoder child."""

from __future__ import annotations

import os
from typing import Final

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from orchestrator.errors import VideoEncryptedError, VideoOverLimitError, VideoUnreadableError, VideoWithoutPictureError

# Containers and raw streams that hold their frames themselves: no playlists, no image sequences, no devices.
DEMUXERS: Final = (
    "mov matroska avi mpegts mpeg flv asf ogg mxf dv nut wtv ivf obu h264 hevc mpegvideo m4v mjpeg vc1 gif yuv4mpegpipe"
)
# What Matroska and ASF say of protected streams; mp4 says it on every packet.
ENCRYPTION_METADATA: Final = frozenset({"enc_key_id", "ASF_Protection_Type", "ASF_Key_ID", "ASF_License_URL"})


def open_container(fd: int, *, max_frame_pixels: int) -> InputContainer:
    """Open the file behind `fd`, from its first byte. Raises VideoUnreadableError."""
    # libav duplicates the descriptor, and duplicates share their offset.
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        return av.open(
            "fd:",
            mode="r",
            # Also reaches the decoders that libav opens to probe the streams.
            options={"max_pixels": _backstop_pixels(max_frame_pixels), "threads": "1"},
            container_options={
                "fd": str(fd),
                "protocol_whitelist": "fd",
                "format_whitelist": ",".join(DEMUXERS.split()),
            },
            metadata_errors="replace",
        )
    except av.FFmpegError as exc:
        raise VideoUnreadableError(
            f"no demuxer can read it ({exc.strerror}); check that the file plays, and upload it whole"
        ) from exc


def picture_stream(container: InputContainer, *, max_frame_pixels: int) -> VideoStream:
    """The stream to decode, set to one thread. Raises VideoError where there is none that can be decoded."""
    moving = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not moving:
        raise VideoWithoutPictureError(
            "it has no video stream, only sound, cover art or subtitles; upload a file with moving pictures"
        )
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in moving else moving[0]
    context = stream.codec_context
    if context is None:
        raise VideoUnreadableError("no decoder is known for its video stream; convert it to H.264 first")
    if ENCRYPTION_METADATA & {*stream.metadata, *container.metadata}:
        raise VideoEncryptedError("its video stream is encrypted; give a file without copy protection")
    if context.width * context.height > max_frame_pixels:
        raise VideoOverLimitError(
            f"its frames have {context.width}x{context.height} pixels, over the limit of {max_frame_pixels} in all; "
            "upload a smaller copy"
        )
    context.thread_count = 1
    context.options = {"max_pixels": _backstop_pixels(max_frame_pixels)}
    return stream


def _backstop_pixels(max_frame_pixels: int) -> str:
    """The size at which libav itself refuses, before it allocates; it counts padded rows (192 pixels for 160)."""
    return str(2 * max_frame_pixels)
