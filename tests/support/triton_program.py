"""A Triton that nobody supervises: the test starts, kills, stops and starts it again, on one address.

`tests.support.triton` has the supervised one. This one is what an operator's Triton is to us: a program of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import psutil

from orchestrator.inference.installation import (
    LOOPBACK,
    REGION_PREFIX,
    ServerPorts,
    TritonInstallation,
    build_command,
    build_environment,
    find_installation,
    link_backends,
)
from tests.support.needs import ROOT
from tests.support.programs import free_ports

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.05


class TritonProgram:
    """repository: what the next start serves; may be set to another folder in between."""

    def __init__(self, repository: Path, folder: Path, installation: TritonInstallation) -> None:
        self.repository = repository
        self.ports = ServerPorts(*free_ports(3))
        self._folder = folder
        self._installation = installation
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def grpc_url(self) -> str:
        return f"{LOOPBACK}:{self.ports.grpc}"

    @property
    def pid(self) -> int:
        """Of the server itself, below its guardian. Raises ProcessLookupError while there is none."""
        children = psutil.Process(self._guardian().pid).children()
        if not children:
            raise ProcessLookupError("the server has gone")
        return children[0].pid

    def start(self) -> None:
        """Return when every model is loaded; must be called on the main thread, with which the server ends."""
        assert self._process is None, "it runs already"
        self._starts += 1
        log = self._folder / f"triton-{self._starts}.log"
        self._folder.mkdir(parents=True, exist_ok=True)
        command = build_command(
            self._installation,
            repository=self.repository,
            config_name="embedded",
            backends=link_backends(self._installation, self._folder / "backends"),
            ports=self.ports,
            region_prefix=f"{REGION_PREFIX}{secrets.token_hex(8)}_",
            niceness=0,
        )
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=build_environment(self._installation, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait_ready(log)

    def kill(self) -> int:
        """SIGKILL to the server; the pid it had. Its guardian removes what it leaves and ends too."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        self._ended()
        return pid

    def stop(self) -> None:
        """SIGTERM; nothing happens where it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._ended()

    def pause(self) -> int:
        """SIGSTOP to the server: it is there and answers nothing. Returns its pid."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        return pid

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _guardian(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProcessLookupError("Triton does not run")
        return self._process

    def _ended(self) -> None:
        guardian, self._process = self._guardian(), None
        try:
            guardian.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(guardian.pid, signal.SIGKILL)
            guardian.wait()

    def _wait_ready(self, log: Path) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._is_live():
            try:
                code = self._guardian().wait(POLL_S)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline_s, f"Triton does not start:\n{log.read_text(errors='replace')}"
                continue
            raise AssertionError(f"Triton ended with {code}:\n{log.read_text(errors='replace')}")

    def _is_live(self) -> bool:
        try:
            return httpx.get(f"http://{LOOPBACK}:{self.ports.http}/v2/health/live", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def triton_program(repository: Path, folder: Path) -> Iterator[TritonProgram]:
    """A Triton on `repository` that is ready; nothing of it is left at the end."""
    environment = Path(os.environ.get("TRIREEL_TRITON_ENV", ROOT / ".venv-triton"))
    triton = TritonProgram(repository, folder, asyncio.run(find_installation(environment)))
    try:
        triton.start()
        yield triton
    finally:
        triton.stop()
