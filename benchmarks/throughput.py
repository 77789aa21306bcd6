"""What a job costs beside what its parts cost alone. CPU-seconds decide; wall time is printed beside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import av
import numpy as np

from benchmarks.lab import Lab, open_bench
from benchmarks.machine import usable_cores
from benchmarks.pairs import measure_pairs
from benchmarks.references import Reference, open_reference
from benchmarks.table import Row, at_least, at_most, row_of_ratios
from orchestrator.core.letterbox import fit_letterbox, letterbox_into

CLIP_FRAMES: Final = 100
IMGSZ: Final = 640
STRIDE: Final = 32


def e2e_vs_raw(lab: Lab) -> list[Row]:
    """One job over REST beside ONNX Runtime alone; and how well the job keeps the cores at work."""
    with open_bench(lab) as bench, open_onnx_alone(lab) as alone:
        pairs = measure_pairs(
            lambda: alone.cost(CLIP_FRAMES), lambda: bench.job_cost(lab.clip(CLIP_FRAMES)), pairs=lab.pairs
        )
    overlaps = [ours.wall_s * usable_cores() / ours.cpu_s for _, ours in pairs.costs]
    return [
        row_of_ratios("e2e_vs_raw", pairs.cpu_ratios(), at_least(0.90), beside=pairs.beside()),
        row_of_ratios("overlap", overlaps, at_most(1.10)),
    ]


@contextmanager
def open_onnx_alone(lab: Lab) -> Iterator[Reference]:
    """ONNX Runtime on the frames of the clip, with the threads that the served model has: one run a core."""
    frames = lab.scratch / "frames.npy"
    if not frames.exists():
        np.save(frames, letterboxed_frames(lab.clip(CLIP_FRAMES)))
    with open_reference(lab.triton_python, "onnx_alone.py", lab.graph, frames, usable_cores(), 1, 1) as alone:
        yield alone


def letterboxed_frames(clip: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """All frames of a clip as the model takes them, uint8 (N, H, W, 3)."""
    with av.open(str(clip)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    height, width = pictures[0].shape[:2]
    box = fit_letterbox(width, height, imgsz=IMGSZ, stride=STRIDE)
    rows = np.empty((len(pictures), box.model_h_px, box.model_w_px, 3), dtype=np.uint8)
    for row, picture in zip(rows, pictures, strict=True):
        letterbox_into(row, np.asarray(picture, dtype=np.uint8), box)
    return rows
