"""What a job costs beside what its parts cost alone. CPU-seconds decide; wall time is printed beside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import av
import numpy as np

from benchmarks.closed_loop import ClosedLoop, open_closed_loop
from benchmarks.lab import Lab, open_bench
from benchmarks.machine import usable_cores
from benchmarks.pairs import Cost, measure_pairs
from benchmarks.references import Reference, open_reference
from benchmarks.table import Row, at_least, at_most, row_of_medians
from orchestrator.core.letterbox import fit_letterbox, letterbox_into
from orchestrator.settings import Transport
from orchestrator.video.colour import RgbConverter

CLIP_FRAMES: Final = 100
IMGSZ: Final = 640
STRIDE: Final = 32
LIMIT_EVERY_NTH: Final = 3
GPU_BATCH: Final = 16


def e2e_vs_raw(lab: Lab) -> list[Row]:
    """One job over REST beside ONNX Runtime alone; and how well the job keeps the cores at work."""
    with open_bench(lab) as bench, open_onnx_alone(lab) as alone:
        pairs = measure_pairs(
            lambda: alone.cost(CLIP_FRAMES), lambda: bench.job_cost(lab.clip(CLIP_FRAMES)), pairs=lab.pairs
        )
        use = bench.triton_use()
    overlaps = [ours.wall_s * usable_cores() / ours.cpu_s for _, ours in pairs.costs]
    return [
        row_of_medians("e2e_vs_raw", lab.ratios(pairs), at_least(0.90), beside=pairs.beside() | use),
        row_of_medians("overlap", overlaps, at_most(1.10)),
    ]


def triton_tax(lab: Lab) -> list[Row]:
    """Frames from memory through Triton and back, beside ONNX Runtime alone, over both transports."""
    rows = []
    transports: tuple[tuple[Transport, float], ...] = (("shm", 0.96), ("grpc", 0.92))
    for transport, least in transports:
        with open_closed_loop(lab, np.load(frames_of(lab)), transport) as loop, open_onnx_alone(lab) as alone:
            pairs = measure_pairs(lambda: alone.cost(CLIP_FRAMES), lambda: loop.cost(CLIP_FRAMES), pairs=lab.pairs)
        rows.append(
            row_of_medians(f"triton_tax.{transport}", lab.ratios(pairs), at_least(least), beside=pairs.beside())
        )
    return rows


def vs_ultralytics(lab: Lab) -> list[Row]:
    """One job beside Ultralytics' own loop over the same clip and the same network, in one process."""
    loop = open_reference(lab.export_python, "ultralytics_loop.py", lab.graph, lab.clip(CLIP_FRAMES), IMGSZ, STRIDE)
    with open_bench(lab) as bench, loop as ultralytics:
        pairs = measure_pairs(
            lambda: ultralytics.cost(CLIP_FRAMES), lambda: bench.job_cost(lab.clip(CLIP_FRAMES)), pairs=lab.pairs
        )
    return [row_of_medians("vs_ultralytics", lab.ratios(pairs), at_least(0.97), beside=pairs.beside())]


def stride(lab: Lab) -> list[Row]:
    """What a source frame costs at every frame, beside what it costs at every fifth; as many are inferred in both."""
    with open_bench(lab) as bench:
        pairs = measure_pairs(
            lambda: bench.job_cost(lab.clip(CLIP_FRAMES)),
            lambda: _per_source_frame(bench.job_cost(lab.clip(5 * CLIP_FRAMES), every_nth=5), every_nth=5),
            pairs=lab.pairs,
        )
    return [row_of_medians("stride", lab.ratios(pairs), at_least(4.5), beside=pairs.beside())]


def _per_source_frame(cost: Cost, *, every_nth: int) -> Cost:
    return replace(cost, frames=cost.frames * every_nth)


def limit_ratio(lab: Lab) -> list[Row]:
    """What the parts of a job at every third frame cost alone, summed, beside the job. The clip has 1280x720 px."""
    clip = lab.hd_clip(LIMIT_EVERY_NTH * CLIP_FRAMES)
    with open_bench(lab) as bench, open_closed_loop(lab, np.load(frames_of(lab)), "shm") as loop:
        pairs = measure_pairs(
            lambda: _sum_of_parts(clip, loop),
            lambda: bench.job_cost(lab.hd_clip(LIMIT_EVERY_NTH * CLIP_FRAMES), every_nth=LIMIT_EVERY_NTH),
            pairs=lab.pairs,
        )
    return [row_of_medians("limit_ratio", lab.ratios(pairs), at_least(0.92), beside=pairs.beside())]


def _sum_of_parts(clip: Path, loop: ClosedLoop) -> Cost:
    """N d + p of a clip's frames in this process, and m + t of as many through Triton.

    Writing, which a job does too, is counted as nothing: the limit is lower than the true one by so much.
    """
    sampled, began_s, cpu_began_s = 0, time.perf_counter(), time.process_time()
    converter, row = RgbConverter(), np.empty(0, dtype=np.uint8)
    with av.open(str(clip)) as container:
        container.streams.video[0].thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number % LIMIT_EVERY_NTH:
                continue
            box = fit_letterbox(frame.width, frame.height, imgsz=IMGSZ, stride=STRIDE)
            if not sampled:
                row = np.empty((box.model_h_px, box.model_w_px, 3), dtype=np.uint8)
            letterbox_into(row, converter.pixels(frame), box)
            sampled += 1
    cpu_s, wall_s = time.process_time() - cpu_began_s, time.perf_counter() - began_s
    through_triton = loop.cost(sampled)
    return Cost(sampled, wall_s + through_triton.wall_s, cpu_s + through_triton.cpu_s)


@contextmanager
def open_onnx_alone(lab: Lab) -> Iterator[Reference]:
    """ONNX Runtime on the frames of the clip as the served model runs it: a frame a core, or a GPU's batch at once."""
    side_by_side, batch = (usable_cores(), 1) if lab.device == "cpu" else (1, GPU_BATCH)
    arguments = (lab.graph, frames_of(lab), lab.device, side_by_side, 1, batch)
    with open_reference(lab.triton_python, "onnx_alone.py", *arguments) as alone:
        yield alone


def frames_of(lab: Lab) -> Path:
    """A file with the letterboxed frames of a clip, uint8 (N, H, W, 3); made once."""
    path = lab.scratch / "frames.npy"
    if not path.exists():
        np.save(path, letterboxed_frames(lab.clip(CLIP_FRAMES)))
    return path


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
