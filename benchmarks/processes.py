"""The CPU time that a tree of processes has used."""

from __future__ import annotations

import psutil


def tree_of(pid: int) -> list[psutil.Process]:
    """The process and all below it that are alive now."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_s(pid: int) -> float:
    """CPU-seconds of the process and all below it since they began; those that ended count with their parents."""
    total = 0.0
    for process in tree_of(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            # Reaped a moment ago: its parent, looked at before, did not have its time yet. Some milliseconds.
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
