"""Memory over time of what is ours in a stack: API, decoders and slots, without Triton and the processes below it."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

# Reading a process' memory stops it for some milliseconds, which requests would feel.
INTERVAL_S: Final = 2.0
GUARDIAN: Final = "guardian.py"
SLOTS: Final = "/dev/shm/trireel_"
BLOCK_BYTES: Final = 512


@dataclass(slots=True)
class Footprint:
    """Samples so far: seconds since the first one, and bytes."""

    times_s: list[float] = field(default_factory=list)
    sizes_bytes: list[int] = field(default_factory=list)

    def peak_bytes(self) -> int:
        return max(self.sizes_bytes)

    def growth(self, after_s: float) -> float:
        """The last quarter of the samples after `after_s` over the first quarter, medians of both; 1 is flat.

        NaN where there are too few to tell.
        """
        late = [size for at_s, size in zip(self.times_s, self.sizes_bytes, strict=True) if at_s >= after_s]
        quarter = len(late) // 4
        if not quarter:
            return float("nan")
        return statistics.median(late[-quarter:]) / statistics.median(late[:quarter])


@contextmanager
def watching_memory(pid: int) -> Iterator[Footprint]:
    """pid: of the server. The footprint grows until the end."""
    footprint = Footprint()
    is_over = threading.Event()

    def watch() -> None:
        began_s = time.monotonic()
        while not is_over.wait(INTERVAL_S):
            footprint.sizes_bytes.append(own_bytes(pid))
            footprint.times_s.append(time.monotonic() - began_s)

    thread = threading.Thread(target=watch, name="footprint")
    thread.start()
    try:
        yield footprint
    finally:
        is_over.set()
        thread.join()


def own_bytes(pid: int) -> int:
    """Summed PSS of the server's own processes, and the slots whole, though Triton maps them as well."""
    regions: set[str] = set()
    total = 0
    for process in own_processes(pid):
        try:
            maps = process.memory_maps()
        except psutil.NoSuchProcess:
            continue
        for mapped in maps:
            if mapped.path.startswith(SLOTS):
                regions.add(mapped.path)
            else:
                total += mapped.pss
    return total + sum(_allocated_bytes(Path(region)) for region in regions)


def own_processes(pid: int) -> list[psutil.Process]:
    """The server and what it started, but for the embedded Triton's guardian and what is below that."""
    root = psutil.Process(pid)
    found = [root]
    for child in root.children():
        try:
            if not any(Path(word).name == GUARDIAN for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def _allocated_bytes(region: Path) -> int:
    return BLOCK_BYTES * region.stat().st_blocks
