"""What a decoder child may not do: outlive its parent, take all memory, write files, open many descriptors."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
OPEN_FILES: Final = 32
# After the API, so that it answers at once, and before Triton: it takes most of the CPU, and waits for frames.
NICENESS: Final = 2


class ConfinementError(Exception):
    """The kernel refused a limit; a child without it must not decode."""


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends. Raises ConfinementError if that has happened already."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise ConfinementError("the decoder parent is gone")


def confine(*, memory_bytes: int) -> None:
    """Limit this process for good. memory_bytes: address space on top of what the libraries already take."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    limits = {
        resource.RLIMIT_AS: _address_space_bytes() + memory_bytes,
        resource.RLIMIT_CORE: 0,
        # Slots and index are mapped memory; nothing is ever written to a file.
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    for which, most in limits.items():
        resource.setrlimit(which, (most, most))
    os.nice(NICENESS)


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise ConfinementError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
