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

from orchestrator.video.slots import NAME_PREFIX

# Reading a process' memory stops it for some milliseconds, which requests would feel.
INTERVAL_S: Final = 2.0
GUARDIAN: Final = "guardian.py"
BLOCK_BYTES: Final = 512
KIB: Final = 1024


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
    """Summed PSS of the server's own processes, but of the slots, which Triton maps as well, their whole size."""
    regions = list(Path("/dev/shm").glob(f"{NAME_PREFIX}{pid}_*"))
    total = sum(BLOCK_BYTES * region.stat().st_blocks for region in regions)
    for process in own_processes(pid):
        try:
            sizes = rollup_bytes(process.pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The slots are the only shared memory that lasts.
        total += sizes["Pss"] - (sizes["Pss_Shmem"] if regions else 0)
    return total


def rollup_bytes(pid: int) -> dict[str, int]:
    """What the kernel sums up of a process' memory, by its names for it; a tenth of the work of all its mappings."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): KIB * int(count) for name, count, _ in fields}


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
