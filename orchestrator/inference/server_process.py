"""One life of the embedded `tritonserver`: start, wait until it answers, watch, stop, clean up after it."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from orchestrator.errors import TritonStartError
from orchestrator.inference.hang_watch import HangWatch
from orchestrator.inference.installation import EXIT_TIMEOUT_S, LOOPBACK

log = structlog.get_logger(__name__)

POLL_S: Final = 0.05
HEALTH_POLL_S: Final = 1.0
# Looks between two searches for new children: a server has a hundred threads, and each has a list of its own.
LOOKS_A_SEARCH: Final = 10
HEALTH_TIMEOUT_S: Final = 5.0
# Triton looks once a second whether it may exit; the guardian gives it that second, and cleans up.
STOP_TIMEOUT_S: Final = EXIT_TIMEOUT_S + 3.0
SHARED_MEMORY: Final = Path("/dev/shm")
LOG_TAIL_BYTES: Final = 64 * 1024
LONGEST_ERROR: Final = 500
ERROR_LINE: Final = re.compile(r"^(?:E\d{4} [\d:.]+ \d+ [\w.]+:\d+\] |error: |Error: |terminate called )(?P<text>.*)$")
# Said by every server without a GPU, or beside a line that says what is wrong.
NO_NEWS: Final = ("CudaDriverHelper has not been initialized", "Failed to initialize NVML", "failed to load all models")


class ServerProcess:
    """A server below its guardian, in a process group of their own. Made by `start`, and must be ended by `stop`."""

    def __init__(self, process: asyncio.subprocess.Process, *, log_path: Path, region_prefix: str) -> None:
        self._process = process
        self._log_path = log_path
        self._region_prefix = region_prefix
        self._log_start = 0

    @classmethod
    async def start(
        cls, command: Sequence[str], *, environment: Mapping[str, str], log_path: Path, region_prefix: str
    ) -> ServerProcess:
        """Start it with its output in a fresh log; the one before is kept as `.1`. Raises TritonStartError."""
        with _fresh_log(log_path) as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    env=environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as exc:
                raise TritonStartError(f"the embedded Triton cannot be started: {exc}") from exc
        return cls(process, log_path=log_path, region_prefix=region_prefix)

    @property
    def pid(self) -> int | None:
        """Of the server itself; None before its guardian started it and after it ended."""
        children = _children_of(self._process.pid)
        return children[0] if children else None

    def dead_children(self) -> frozenset[int]:
        """Processes of models that ended without the server noticing."""
        return _zombies_among(_children_of(self.pid))

    async def wait_ready(self, http_port: int, *, timeout_s: float) -> None:
        """Return when it answers; it does so once every model is loaded or has failed to. Raises TritonStartError."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await is_live(http_port):
                    if self._process.returncode is not None:
                        raise TritonStartError(f"the embedded Triton ended while it started: {self.last_error()}")
                    await asyncio.sleep(POLL_S)
            # What was said of models that failed to load is not why the server ends some day.
            self._log_start = self._log_path.stat().st_size
        except TimeoutError:
            raise TritonStartError(
                f"the embedded Triton was not ready within {timeout_s:.0f} s: {self.last_error()}"
            ) from None

    async def wait_broken(self, hang_watch: HangWatch) -> str:
        """Return what is wrong as soon as the server ended, lost a stub or hangs."""
        ended = asyncio.ensure_future(self._process.wait())
        dead_before: frozenset[int] = frozenset()
        children: list[int] = []
        looks = itertools.count()
        try:
            while not ended.done():
                if next(looks) % LOOKS_A_SEARCH == 0:
                    children = _children_of(self.pid)
                # Seen with 2.51: the backend never starts a lost stub again, and its model still calls itself ready.
                # A stub that it ended itself, when a model is loaded anew, is gone by the next look.
                dead = _zombies_among(children)
                if dead & dead_before:
                    return "a process of a model died"
                dead_before = dead
                if await hang_watch.is_hung():
                    return "it answered nothing any more"
                await asyncio.wait([ended], timeout=HEALTH_POLL_S)
        finally:
            ended.cancel()
        return f"it ended with {_exit_words(self._process.returncode)}: {self.last_error()}"

    def last_error(self) -> str:
        """The last line of its log that tells of an error; once it was ready, of an error since then."""
        with self._log_path.open("rb") as stream:
            stream.seek(max(self._log_start, self._log_path.stat().st_size - LOG_TAIL_BYTES))
            return last_error_in(stream.read().decode(errors="replace"))

    async def stop(self) -> None:
        """SIGTERM, a wait, SIGKILL to the whole group; then nothing of it is left in shared memory.

        Cancelling it cuts the wait short, not the rest.
        """
        try:
            if self._process.returncode is None:
                self._process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        finally:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL to whatever of the group still lives."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        for region in SHARED_MEMORY.glob(f"{self._region_prefix}*"):
            region.unlink(missing_ok=True)


async def is_live(http_port: int, *, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
    """Whether a Triton answers on this port of the loopback. Plain sockets: gRPC has a loop of its own."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(LOOPBACK, http_port)
            try:
                writer.write(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def _children_of(pid: int | None) -> list[int]:
    """Children of a process; none when it has gone."""
    lists = [_read_proc(path) for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for child in " ".join(lists).split()]


def _zombies_among(pids: Iterable[int]) -> frozenset[int]:
    return frozenset(pid for pid in pids if _state_of(pid) == "Z")


def _state_of(pid: int) -> str:
    # The state follows the command's name, which stands in brackets and may hold anything.
    fields = _read_proc(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields[0] if fields else ""


def _read_proc(path: Path) -> str:
    """A file of /proc; "" when its process has gone meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def last_error_in(text: str) -> str:
    """The last line of a tritonserver log that tells of an error, without its prefix."""
    for line in reversed(text.splitlines()):
        match = ERROR_LINE.match(line)
        if match and not any(words in line for words in NO_NEWS):
            return match["text"].strip('"')[:LONGEST_ERROR]
    lines = text.strip().splitlines()
    return lines[-1][:LONGEST_ERROR] if lines else "its log says nothing"


def _fresh_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_name(f"{path.name}.1"))
    return path.open("wb")


def _exit_words(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return signal.Signals(-returncode).name
    return f"code {returncode}"
