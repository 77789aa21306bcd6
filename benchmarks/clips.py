"""Videos to measure with: the first frames of a real one, each copy a video of its own.

A run that is finished is not inferred again, so every repetition needs a video that the stack has not seen: the
copies differ in a comment in the container.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType
from av.video.stream import VideoStream

FPS: Final = 25


def copy_frames(source: Path, target: Path, *, frames: int, number: int) -> Path:
    """The first packets of `source` as they are, from its start again where it ends.

    Cutting is right for videos without B-frames; whole copies are for any.
    """
    with av.open(str(target), "w", options={"movflags": "use_metadata_tags"}) as written:
        written.metadata["comment"] = f"copy {number}"
        stream = None
        done, start_ticks = 0, 0
        while done < frames:
            with av.open(str(source)) as read:
                stream = stream or written.add_stream_from_template(read.streams.video[0])
                length_ticks = 0
                for packet, pts, dts in islice(_packets(read), frames - done):
                    length_ticks = max(length_ticks, pts + (packet.duration or 0))
                    packet.pts, packet.dts = start_ticks + pts, start_ticks + dts
                    packet.stream = stream
                    written.mux(packet)
                    done += 1
                start_ticks += length_ticks
    return target


def scale_frames(source: Path, target: Path, *, size_px: tuple[int, int], frames: int) -> Path:
    """The first frames of `source` in another size (width, height), as x264 encodes them by default; H.264 in MP4."""
    width, height = size_px
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for position, frame in enumerate(islice(read.decode(video=0), frames)):
            scaled = frame.reformat(width, height, "yuv420p")
            scaled.pts, scaled.time_base = position, Fraction(1, FPS)
            # Else the encoder would repeat the source's own choice of frames that refer to others.
            scaled.pict_type = PictureType.NONE
            written.mux(stream.encode(scaled))
        written.mux(stream.encode())
    return target


def _packets(read: InputContainer) -> Iterator[tuple[Packet[VideoStream], int, int]]:
    """Each with its times of showing and decoding, in ticks."""
    for packet in read.demux(read.streams.video[0]):
        if packet.pts is not None and packet.dts is not None:
            yield packet, packet.pts, packet.dts
