"""Making the index by demuxing without decoding; runs in a decoder child."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from orchestrator.core.types import FrameIndex, IndexReport
from orchestrator.errors import VideoOverLimitError, VideoUnreadableError
from orchestrator.video.containers import open_container, picture_stream
from orchestrator.video.header import duration_s_hint
from orchestrator.video.messages import ChildLimits

NOMINAL_FPS: Final = 25
# No codec shows a frame further from where it was decoded; a deeper reordering means that time jumps back.
DEEPEST_REORDERING: Final = 64
# Containers that store when a frame is decoded, but not when it is shown.
DECODING_TIMES_ONLY: Final = frozenset({"avi"})
# Ends early: by more than this, and by more than this share of the declared duration.
EARLY_END_S: Final = 1.0
EARLY_END_SHARE: Final = 0.02
# Variable rate: more than this share of gaps differ from the median by more than this share of it, and by a tick.
UNEVEN_GAPS: Final = 0.01
UNEVEN_GAP_SHARE: Final = 0.1


@dataclass(slots=True)
class _Packets:
    """What demuxing gathers of the picture stream. last_end_s: over all streams, since nothing says who declared."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    keys: bytearray = field(default_factory=bytearray)
    missing_pts: int = 0
    last_duration: int = 0
    latest_pts: int | None = None
    other_end_s: float = 0.0
    complaints: int = 0
    corrupt: int = 0


def make_index(fd: int, limits: ChildLimits, *, still_alive: Callable[[], None]) -> tuple[FrameIndex, IndexReport]:
    """Demux the whole file. Raises VideoError, among them VideoOverLimitError as soon as a limit is passed."""
    with open_container(fd, max_frame_pixels=limits.max_frame_pixels) as container:
        stream = picture_stream(container, max_frame_pixels=limits.max_frame_pixels)
        packets = _demux(container, stream, limits, still_alive=still_alive)
        if not packets.keys:
            raise VideoUnreadableError("it has a video stream, but not one frame in it; check that the file plays")
        index = _index_of(packets, stream)
        report = _report(index, packets, duration_s_hint(container, stream))
    if report.duration_s > limits.max_duration_s:
        raise VideoOverLimitError(
            f"it lasts {report.duration_s:.0f} s, over the limit of {limits.max_duration_s:.0f} s; cut it"
        )
    if report.fps is not None and report.fps > limits.max_fps:
        raise VideoOverLimitError(
            f"it has {report.fps:.0f} frames a second, over the limit of {limits.max_fps:.0f}; upload a slower copy"
        )
    return index, report


def _demux(
    container: InputContainer, stream: VideoStream, limits: ChildLimits, *, still_alive: Callable[[], None]
) -> _Packets:
    packets = _Packets()
    with av.logging.Capture() as complaints:
        try:
            for packet in container.demux():
                still_alive()
                _add(packets, packet, stream)
                packets.complaints += len(complaints)
                complaints.clear()
                if len(packets.keys) > limits.max_frames:
                    raise VideoOverLimitError(f"it has more than {limits.max_frames} frames, the limit; cut it")
        except av.InvalidDataError:
            # The file is damaged from here on; what came before is still good.
            packets.complaints += 1
        packets.complaints += len(complaints)
    return packets


def _add(packets: _Packets, packet: Packet[Stream], stream: VideoStream) -> None:
    if packet.stream_index != stream.index:
        if packet.pts is not None and packet.size:
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            packets.other_end_s = max(packets.other_end_s, end_s)
        return
    # An empty packet repeats the frame before; one that an edit list discards is never shown.
    if not packet.size or packet.is_discard:
        return
    packets.corrupt += packet.is_corrupt
    packets.keys.append(packet.is_keyframe)
    packets.missing_pts += packet.pts is None
    pts = packet.pts or 0
    packets.pts.append(pts)
    if packets.latest_pts is None or pts >= packets.latest_pts:
        packets.latest_pts = pts
        packets.last_duration = max(packet.duration or 0, 0)


def _index_of(packets: _Packets, stream: VideoStream) -> FrameIndex:
    pts = np.array(packets.pts, dtype=np.int64)
    is_key = np.frombuffer(bytes(packets.keys), dtype=np.bool_)
    time_base = stream.time_base
    if time_base and _has_usable_times(pts, packets, stream):
        order = np.argsort(pts, kind="stable")
        return FrameIndex(pts[order], is_key[order], time_base)
    rate = stream.average_rate or Fraction(NOMINAL_FPS)
    return FrameIndex(np.arange(len(pts), dtype=np.int64), is_key, 1 / Fraction(rate), is_timed=False)


def _has_usable_times(pts: NDArray[np.int64], packets: _Packets, stream: VideoStream) -> bool:
    """Whether each frame will come out of the decoder with the time stamp of its packet, in the order of these."""
    if packets.missing_pts:
        return False
    order = np.argsort(pts, kind="stable")
    is_distinct = bool((np.diff(pts[order]) > 0).all())
    deepest = int(np.abs(order - np.arange(len(pts))).max())
    hides_reordering = (
        deepest == 0 and stream.codec_context.reorder_depth > 0 and stream.container.format.name in DECODING_TIMES_ONLY
    )
    return is_distinct and deepest <= DEEPEST_REORDERING and not hides_reordering


def _report(index: FrameIndex, packets: _Packets, declared_s: float | None) -> IndexReport:
    gaps = np.diff(index.pts)
    median_gap = float(np.median(gaps)) if len(gaps) else 0.0
    tick_s = float(index.time_base)
    last_gap = packets.last_duration if index.is_timed and packets.last_duration else median_gap
    span_s = float(index.pts[-1] - index.pts[0]) * tick_s
    duration_s = span_s + last_gap * tick_s
    uneven = np.abs(gaps - median_gap) > max(UNEVEN_GAP_SHARE * median_gap, 1)
    is_vfr = bool(len(gaps) and uneven.mean() > UNEVEN_GAPS)
    warnings = []
    end_s = max(float(index.pts[0]) * tick_s + duration_s, packets.other_end_s) if index.is_timed else duration_s
    if declared_s is not None and declared_s - end_s > max(EARLY_END_S, EARLY_END_SHARE * declared_s):
        warnings.append("input_ends_early")
    if packets.complaints or packets.corrupt:
        warnings.append("demux_errors")
    notes = [note for note, holds in (("variable_frame_rate", is_vfr), ("no_time_stamps", not index.is_timed)) if holds]
    return IndexReport(
        frame_count=len(index),
        duration_s=duration_s,
        fps=len(gaps) / span_s if span_s > 0 else None,
        is_vfr=is_vfr,
        warnings=tuple(warnings),
        notes=tuple(notes),
    )
