"""A Redis of the tests' own in a temporary folder: started by the first test that asks, ended with the session."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.support.programs import LOOPBACK, free_ports

START_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.01
# Nothing is kept: a Redis that starts again knows nothing, which loses nothing.
OPTIONS: Final = ("--save", "", "--appendonly", "no", "--bind", LOOPBACK, "--daemonize", "no")


@dataclass(slots=True)
class RedisServer:
    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is down"
        return self._process.pid

    def url(self, *, database: int = 0) -> str:
        return f"redis://{LOOPBACK}:{self.port}/{database}"

    @contextmanager
    def client(self) -> Iterator[Redis]:
        with Redis.from_url(self.url(), socket_timeout=START_TIMEOUT_S) as client:
            yield client

    def start(self) -> None:
        """Until it answers."""
        if self._process is not None:
            return
        command = ["redis-server", "--port", str(self.port), "--dir", str(self.folder), *OPTIONS]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_S)
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"redis-server does not start:\n{(self.folder / 'log').read_text()}")

    def crash(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It is there and does not answer, for as long as the body takes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def without_room(self) -> Iterator[None]:
        """It answers every command that writes with an error, for as long as the body takes."""
        with self.client() as client:
            client.config_set("maxmemory", 1)
            try:
                yield
            finally:
                client.config_set("maxmemory", 0)

    def empty(self) -> None:
        """Nothing stored, nobody connected."""
        with self.client() as client:
            client.flushall()
        self.end_connections()

    def end_connections(self) -> int:
        """Have the server end all connections, but the one that asks for it; how many there were."""
        with self.client() as client:
            # What redis-py says of its answers is too wide to be of use.
            kill: Any = client.client_kill_filter
            ended: list[int] = [kill(_type=kind, skipme=True) for kind in ("normal", "pubsub")]
        return sum(ended)

    def publish(self, channel: str, message: bytes) -> None:
        with self.client() as client:
            client.publish(channel, message)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False


@contextmanager
def open_redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="trireel-redis-") as folder:
        (port,) = free_ports(1)
        server = RedisServer(Path(folder), port)
        try:
            server.start()
            yield server
        finally:
            server.crash()


@pytest.fixture(scope="session")
def redis_of_session() -> Iterator[RedisServer]:
    with open_redis() as server:
        yield server


@pytest.fixture
def redis(redis_of_session: RedisServer) -> RedisServer:
    """It runs, is empty, and nobody is connected."""
    redis_of_session.start()
    redis_of_session.empty()
    return redis_of_session
