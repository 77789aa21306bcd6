"""Programs as children, for tests that need the real ones: started, waited for, stopped, their output kept."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
POLL_S: Final = 0.1
STOP_TIMEOUT_S: Final = 20.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now, all different."""
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, is_so: Callable[[], bool], *, timeout_s: float, what: str) -> None:
        """Asks again and again, as long as the program lives. Raises AssertionError with the end of its log."""
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            try:
                code = self.process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline_s:
                    continue
                raise AssertionError(f"{what}: not within {timeout_s:.0f} s\n{self._last_lines()}") from None
            raise AssertionError(f"{self.name} ended with {code}\n{self._last_lines()}")

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])


@contextmanager
def running(
    command: Sequence[str | Path], *, folder: Path, env: Mapping[str, str] | None = None, name: str | None = None
) -> Iterator[Program]:
    """The program, in a process group of its own and with its log in `folder`; at the end nothing of it is left.

    name: for its log, where the command's own will not do.
    """
    name = name or Path(command[0]).name
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield Program(name, process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
