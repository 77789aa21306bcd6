"""Writes a scene as an H.264 video with its truth beside it, and reads the truth back.

The truth is JSON: for each frame, in order, rows of x1, y1, x2, y2 (px of the frame), class id and object id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np

from export.demo.scene import CLASS_NAMES, FrameTruth, Scene, draw_frame

FPS: Final = 25
COLUMNS: Final = ("x1", "y1", "x2", "y2", "class_id", "object_id")
# One thread, because libx264's frame threads make another file each time.
CODEC_OPTIONS: Final = {"crf": "26", "preset": "medium", "threads": "1"}


def write_clip(path: Path, scene: Scene, *, frame_count: int) -> list[FrameTruth]:
    """Encode the first `frame_count` frames of a scene at 25 frames/s; returns their truth."""
    truths = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=CODEC_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = scene.width_px, scene.height_px, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for number in range(frame_count):
            pixels, truth = draw_frame(scene, number / FPS)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
            truths.append(truth)
        container.mux(stream.encode())
    return truths


def write_truth(path: Path, scene: Scene, truths: Sequence[FrameTruth]) -> None:
    head = {
        "seed": scene.seed,
        "fps": FPS,
        "width_px": scene.width_px,
        "height_px": scene.height_px,
        "class_names": CLASS_NAMES,
        "columns": COLUMNS,
    }
    # One line a frame keeps the file readable and its changes small.
    frames = ",\n".join(json.dumps(_rows(truth), separators=(",", ":")) for truth in truths)
    path.write_text(f'{json.dumps(head)[:-1]}, "frames": [\n{frames}\n]}}\n')


def load_truth(path: Path) -> list[FrameTruth]:
    frames = json.loads(path.read_text())["frames"]
    return [_truth(np.array(rows, dtype=np.float32).reshape(-1, len(COLUMNS))) for rows in frames]


def _rows(truth: FrameTruth) -> list[list[int]]:
    """Visible pixels have whole coordinates."""
    columns = [*truth.boxes_xyxy.T, truth.class_ids, truth.object_ids]
    return [[int(value) for value in row] for row in zip(*columns, strict=True)]


def _truth(rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> FrameTruth:
    return FrameTruth(
        boxes_xyxy=rows[:, :4], class_ids=rows[:, 4].astype(np.int16), object_ids=rows[:, 5].astype(np.int16)
    )
