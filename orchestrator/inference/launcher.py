"""A program, not a module to import: become a server that ends with its parent.

`python launcher.py PARENT_PID NICENESS COMMAND...` runs under the embedded Triton's Python and imports nothing of ours.
It replaces itself with the command, so the caller's process id stays that of the server.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent_pid, niceness, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    # SIGTERM and not SIGKILL: a Triton that ends in order removes its Python backend's shared memory.
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent_pid):
        sys.exit("the parent died before the server started")
    os.nice(int(niceness))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
