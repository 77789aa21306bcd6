"""A Redis of the tests' own in a temporary folder: started by the first test that asks, ended with the session."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.programs import LOOPBACK, free_ports

START_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.02


@dataclass(slots=True)
class RedisServer:
    """It keeps nothing on a disk. process: None while it is down."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def url(self, *, port: int | None = None) -> str:
        """port: of a proxy in front of the server."""
        return f"redis://{LOOPBACK}:{port or self.port}/0"

    @property
    def pid(self) -> int:
        assert self.process is not None, "it is down"
        return self.process.pid

    def execute(self, *words: str) -> str:
        """The answer as redis-cli prints it."""
        command = ["redis-cli", "-h", LOOPBACK, "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=START_TIMEOUT_S).stdout

    def empty(self) -> None:
        self.execute("FLUSHALL")

    def end_connections(self) -> None:
        """Have the server end every connection but the one that asks for it, those that subscribe too."""
        for kind in ("normal", "pubsub"):
            self.execute("CLIENT", "KILL", "TYPE", kind)

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                log_text = (self.folder / "redis.log").read_text(errors="replace")
                raise RuntimeError(f"redis-server did not start:\n{log_text}")
            time.sleep(POLL_S)

    def crash(self) -> None:
        """Kill it; what it knew is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def open_redis() -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="trireel-redis-"))
    (port,) = free_ports(1)
    server = RedisServer(folder, port)
    try:
        server.start()
        yield server
    finally:
        server.crash()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_of_session() -> Iterator[RedisServer]:
    with open_redis() as server:
        yield server


@pytest.fixture
def redis(redis_of_session: RedisServer) -> RedisServer:
    """It is empty."""
    redis_of_session.empty()
    return redis_of_session
