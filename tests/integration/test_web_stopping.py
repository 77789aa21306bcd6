"""Stopping: on SIGTERM followers are let go first, and the process ends with 0 well within ten seconds."""

from __future__ import annotations

import asyncio
import io
import signal
import socket
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from orchestrator.client import Client
from orchestrator.client_errors import ConnectionLostError
from orchestrator.errors import SettingsError
from orchestrator.settings import load_settings
from orchestrator.web.server import serve
from tests.support.memory_server import opened_services
from tests.support.needs import ROOT

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

PROGRAM = (sys.executable, "-m", "tests.support.memory_server")
MOST_S = 9.0


@dataclass(frozen=True, slots=True)
class Started:
    process: Process
    first_line: str

    async def stop(self, number: signal.Signals) -> tuple[str, float]:
        """What it said afterwards on both outputs, and the seconds it took."""
        begun_s = time.monotonic()
        self.process.send_signal(number)
        out, err = await self.process.communicate()
        return (out + err).decode(), time.monotonic() - begun_s


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[Started]:
    process = await asyncio.create_subprocess_exec(*PROGRAM, *arguments, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    try:
        assert process.stdout is not None
        yield Started(process, (await process.stdout.readline()).decode().strip())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_followers_first_and_exits_with_0(number: signal.Signals) -> None:
    async with started() as server:
        url = server.first_line
        async with (
            httpx.AsyncClient(base_url=url, timeout=20) as http,
            http.stream("GET", "/v1/jobs/job_1/events") as events,
            http.stream("GET", "/v1/events") as all_events,
            connect(f"ws{url[4:]}/v1/jobs/job_1/ws", proxy=None) as ws,
        ):
            lines = events.aiter_lines()
            while await anext(lines) != "event: state":
                """The stream is open and live."""
            await ws.recv()
            said, elapsed_s = await server.stop(number)
            assert [line async for line in lines if line.startswith("event:")] == []
            assert "event:" not in (await all_events.aread()).decode()
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1012
        assert server.process.returncode == 0
        assert elapsed_s < 3.0
        assert "closed" in said
        assert "Traceback" not in said


async def test_an_upload_and_a_silent_reader_do_not_hold_the_stop_up() -> None:
    async with started() as server:
        port = int(server.first_line.rsplit(":", 1)[1])
        _, uploading = await asyncio.open_connection("127.0.0.1", port)
        uploading.write(b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nVIDEO")
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.sendall(b"GET /v1/jobs/job_1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert silent.recv(9) == b"HTTP/1.1 "
            said, elapsed_s = await server.stop(signal.SIGTERM)
        uploading.close()
        # Neither the client's fault nor an error of the server.
        [told] = [line for line in said.splitlines() if "request answered" in line and "POST" in line]
        assert "status=503" in told
        assert server.process.returncode == 0
        assert elapsed_s < MOST_S


class Noticing(io.BytesIO):
    """Tells when the first bytes have come."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()

    def write(self, piece: Buffer) -> int:
        count = super().write(piece)
        self.has_begun.set()
        return count


async def test_a_followed_result_is_cut_off_by_a_stop_and_never_just_shorter() -> None:
    async with started() as server:
        out = Noticing()

        def follow() -> None:
            with Client(server.first_line) as client:
                client.detections("job_1", out, follow=True)

        following = asyncio.create_task(asyncio.to_thread(follow))
        assert await asyncio.to_thread(out.has_begun.wait, 20)
        said, elapsed_s = await server.stop(signal.SIGTERM)
        with pytest.raises(ConnectionLostError, match="before the answer was whole"):
            await following
        assert server.process.returncode == 0
        assert elapsed_s < 3.0
        assert "answer cut off" in said
        assert "server_stopping" in said
        assert "Traceback" not in said


async def test_a_signal_during_the_start_ends_it_with_0() -> None:
    async with started("opening") as server:
        assert server.first_line == "opening"
        said, elapsed_s = await server.stop(signal.SIGTERM)
        assert server.process.returncode == 0
        assert elapsed_s < 3.0
        assert "Traceback" not in said


async def test_a_port_in_use_is_told_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = load_settings({"TRIREEL_PORT": str(port)})
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}.*TRIREEL_PORT"):
            await serve(settings, opened_services)
