"""A program, not a module to import: the parent of an embedded Triton, which ends with the orchestrator.

`python guardian.py PARENT_PID NICENESS EXIT_TIMEOUT_S REGION_PREFIX COMMAND...` runs under the embedded Triton's
Python, leads a process group of its own and imports nothing of ours. SIGTERM ends the server, also the SIGTERM that
comes when the orchestrator dies. Triton may leave the processes of its models behind (seen with 2.51: one that was busy
then waits for ever) and their shared memory; the guardian removes both, and ends as the server did.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent_pid, niceness, exit_timeout_s, region_prefix, *command = arguments
    _signal_when_orphaned(signal.SIGTERM, int(parent_pid))
    os.nice(int(niceness))
    guardian_pid = os.getpid()
    server_pid = os.fork()
    if server_pid == 0:
        _signal_when_orphaned(signal.SIGTERM, guardian_pid)
        os.execv(command[0], command)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(server_pid, signal.SIGKILL))
    signal.signal(signal.SIGTERM, lambda *_: _end(server_pid, float(exit_timeout_s)))
    _, status = os.waitpid(server_pid, 0)
    signal.alarm(0)
    _kill_rest_of_group()
    for region in Path("/dev/shm").glob(f"{region_prefix}*"):
        region.unlink(missing_ok=True)
    _end_like(os.waitstatus_to_exitcode(status))


def _signal_when_orphaned(number: signal.Signals, parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        sys.exit("the parent died before the server started")


def _end(server_pid: int, timeout_s: float) -> None:
    os.kill(server_pid, signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)


def _kill_rest_of_group() -> None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if os.getpgid(int(entry.name)) == os.getpgrp():
                    os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue


def _end_like(exit_code: int) -> None:
    if exit_code < 0:
        if -exit_code == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
