"""All benchmarks by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.crowd import crowd
from benchmarks.gate import gate
from benchmarks.lab import Lab
from benchmarks.promptness import cancel, first_detection, recovery, start_up, submit
from benchmarks.scale_out import scale_out
from benchmarks.table import Row
from benchmarks.throughput import e2e_vs_raw, limit_ratio, stride, triton_tax, vs_ultralytics
from benchmarks.view import view

Benchmark = Callable[[Lab], list[Row]]

GATE: Final = gate
# `crowd` gives the rows of many_videos, many_memory, fairness and api_under_load: they share one run.
BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "e2e_vs_raw": e2e_vs_raw,
    "limit_ratio": limit_ratio,
    "triton_tax": triton_tax,
    "vs_ultralytics": vs_ultralytics,
    "stride": stride,
    "submit": submit,
    "first_detection": first_detection,
    "cancel": cancel,
    "start_up": start_up,
    "recovery": recovery,
    "view": view,
    "crowd": crowd,
    "scale_out": scale_out,
}
# Quick enough for every change.
GUARDED: Final = ("triton_tax", "e2e_vs_raw", "cancel", "view")
