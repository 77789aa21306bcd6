"""The JSON document and its line-wise sister, newline-delimited JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Final

import msgspec
import numpy as np

from orchestrator.formats.detection_text import write_detections
from orchestrator.formats.result_head import ResultHead
from orchestrator.formats.rows import PTS_DECIMALS, Detection
from orchestrator.results import DetectionBlock, ResultHeader

_ENCODER: Final = msgspec.json.Encoder()


class FailedFrame(msgspec.Struct, frozen=True):
    """A sampled frame that gave no picture."""

    frame_index: Annotated[int, msgspec.Meta(description="Number of the frame in the source, from 0.")]
    pts_ms: Annotated[float, msgspec.Meta(description="Time since the first frame, in milliseconds.")]
    reason: Annotated[str, msgspec.Meta(description="A code of docs/errors.md.", examples=["decode_error"])]


class ResultDocument(ResultHead, frozen=True):
    """The JSON document, as `encode_json` writes it piece by piece."""

    detections: Annotated[list[Detection], msgspec.Meta(description="In frame order, the best of a frame first.")]
    frame_count: Annotated[int, msgspec.Meta(description="Sampled frames that were looked through.", examples=[300])]
    failed_frames: Annotated[
        list[FailedFrame], msgspec.Meta(description="Sampled frames that gave no picture or no answer.")
    ]


class FrameLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of ndjson, as `encode_ndjson` writes it: a sampled frame. failed: why it has no picture, else left out."""

    frame_index: int
    pts_ms: float
    detections: list[Detection]
    failed: str | None = None


async def encode_json(header: ResultHeader, blocks: AsyncIterator[DetectionBlock]) -> AsyncGenerator[bytes, None]:
    """One object: the head's members, `detections`, then `frame_count` and `failed_frames` of what was sent."""
    head = _ENCODER.encode(ResultHead.from_header(header))
    yield head[:-1] + b',"detections":['
    frame_count, failed, separator = 0, [], b""
    async for block in blocks:
        frame_count += len(block.frame_index)
        failed += _failed_frames(block)
        if len(block.detections):
            written = await asyncio.to_thread(write_detections, block.detections, header.class_names)
            yield separator + written.between(0, len(block.detections))
            separator = b","
    yield b'],"frame_count":%d,"failed_frames":%s}\n' % (frame_count, _ENCODER.encode(failed))


async def encode_ndjson(header: ResultHeader, blocks: AsyncIterator[DetectionBlock]) -> AsyncGenerator[bytes, None]:
    """The head on a line, then one line a sampled frame, those without detections included."""
    yield _ENCODER.encode(ResultHead.from_header(header)) + b"\n"
    async for block in blocks:
        yield await asyncio.to_thread(_frame_lines, block, header)


def _frame_lines(block: DetectionBlock, header: ResultHeader) -> bytes:
    """A `FrameLine` for each sampled frame, written around the text of its detections."""
    written = write_detections(block.detections, header.class_names)
    frames = block.frame_index.tolist()
    starts = np.searchsorted(block.detections.frame_index, block.frame_index, side="left").tolist()
    ends = np.searchsorted(block.detections.frame_index, block.frame_index, side="right").tolist()
    times = np.round(block.pts_ms, PTS_DECIMALS).tolist()
    return b"".join(
        b'{"frame_index":%d,"pts_ms":%s,"detections":[%s]%s}\n'
        % (frame, _ENCODER.encode(pts_ms), written.between(start, end), _failed_member(block.failed.get(frame)))
        for frame, pts_ms, start, end in zip(frames, times, starts, ends, strict=True)
    )


def _failed_member(reason: str | None) -> bytes:
    return b"" if reason is None else b',"failed":' + _ENCODER.encode(reason)


def _failed_frames(block: DetectionBlock) -> list[FailedFrame]:
    if not block.failed:
        return []
    times = dict(zip(block.frame_index.tolist(), np.round(block.pts_ms, PTS_DECIMALS).tolist(), strict=True))
    return [FailedFrame(frame, pts_ms, block.failed[frame]) for frame, pts_ms in times.items() if frame in block.failed]
