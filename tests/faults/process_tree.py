"""Which process is what: the programs that a test started know their children, and those theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

DECODER_PARENT = "orchestrator.video.decoder_parent"
TRITON_SERVER = "tritonserver"
LISTENER = "orchestrator.worker.listener"
MODEL_STUB = "triton_python_backend_stub"


def decoder_parents(program_pid: int) -> list[int]:
    """Children of a server or worker that fork decoders."""
    return [child.pid for child in _children(program_pid) if DECODER_PARENT in _command(child)]


def decoders(program_pid: int) -> list[int]:
    return [child.pid for parent in decoder_parents(program_pid) for child in _children(parent)]


def listeners(program_pid: int) -> list[int]:
    """The Celery programs that hear the doorbell for a worker."""
    return [child.pid for child in _children(program_pid) if LISTENER in _command(child)]


def tritons(program_pid: int) -> list[int]:
    """Embedded servers, below their guardians."""
    return [each.pid for each in _children(program_pid, recursive=True) if _program(each) == TRITON_SERVER]


def model_stubs(program_pid: int) -> list[int]:
    return [each.pid for each in _children(program_pid, recursive=True) if _program(each) == MODEL_STUB]


def descendants(program_pid: int) -> list[psutil.Process]:
    return _children(program_pid, recursive=True)


def survivors(processes: Iterable[psutil.Process], *, timeout_s: float) -> list[psutil.Process]:
    """Those that still run after so long; who waits to be reaped does not run."""
    _, alive = psutil.wait_procs(list(processes), timeout=timeout_s)
    return [process for process in alive if _is_running(process)]


def resident_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def describe(process: psutil.Process) -> str:
    return f"{_program(process) or 'a process'} ({process.pid})"


@contextmanager
def _tolerating_ends() -> Iterator[None]:
    """A process may end while it is looked at; it is then nobody's child any more."""
    try:
        yield
    except psutil.NoSuchProcess:
        return


def _children(pid: int, *, recursive: bool = False) -> list[psutil.Process]:
    with _tolerating_ends():
        return [child for child in psutil.Process(pid).children(recursive=recursive) if _is_running(child)]
    return []


def _command(process: psutil.Process) -> str:
    with _tolerating_ends():
        return " ".join(process.cmdline())
    return ""


def _program(process: psutil.Process) -> str:
    """The file name of what it runs; the kernel's own name of it is cut after 15 characters."""
    with _tolerating_ends():
        line = process.cmdline()
        return Path(line[0]).name if line else ""
    return ""


def _is_running(process: psutil.Process) -> bool:
    with _tolerating_ends():
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
