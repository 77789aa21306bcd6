"""The machine that a figure comes from, and what its neighbours took of it meanwhile."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

PACKAGES: Final = ("av", "litestar", "numpy", "opencv-python-headless", "tritonclient")
GIB: Final = 2**30


def describe_machine() -> dict[str, object]:
    """JSON's types only; names no host and no path."""
    return {
        "cpu": _cpu_name(),
        "gpu": _gpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu_name() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return asked.stdout.strip().splitlines()[0] if asked.returncode == 0 and asked.stdout.strip() else None


class StealMeter:
    """Share of CPU time that the hypervisor gave to other machines since the meter was made or read last."""

    def __init__(self) -> None:
        self._last = psutil.cpu_times()

    def read(self) -> float:
        """0 to 1, of the time in which this machine wanted to work."""
        last, now = self._last, psutil.cpu_times()
        self._last = now
        stolen_s = now.steal - last.steal
        wanted_s = sum(now[:8]) - sum(last[:8]) - (now.idle - last.idle) - (now.iowait - last.iowait)
        return stolen_s / wanted_s if wanted_s > 0 else 0.0
