"""The decoder children of a process, and the decoder parent that forks them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from contextvars import Context
from pathlib import Path
from typing import Final

import structlog

from orchestrator.core.shortage import is_shortage, shortage_errors
from orchestrator.errors import DecoderUnavailableError
from orchestrator.telemetry import Metrics
from orchestrator.video.channel import Channel, packet_sockets
from orchestrator.video.decoder_child import CRASHED, DISMISSED, DecoderChild
from orchestrator.video.messages import Ended, Kill, Killed, Spawn, Spawned, from_wire, to_wire
from orchestrator.video.slots import SlotPool

log = structlog.get_logger(__name__)

PACKAGE_ROOT: Final = Path(__file__).parents[2]
DECODER_PARENT: Final = "orchestrator.video.decoder_parent"
# For the parent to answer, and then for a child to be dead: both take milliseconds, and seconds on a crowded machine.
END_TIMEOUT_S: Final = 10.0
# Of the environment, what finding Python and its libraries needs; passwords and the like stay here.
INHERITED_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ")
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class DecoderChildren:
    """Starts the decoder parent, and again when it died; spawns and kills through it."""

    def __init__(
        self, *, memory_bytes: int, slots: SlotPool, metrics: Metrics, end_timeout_s: float, parent_module: str
    ) -> None:
        self._parent_module = parent_module
        self._memory_bytes = memory_bytes
        self._slots = slots
        self._metrics = metrics
        self._end_timeout_s = end_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Channel | None = None
        self._alive: dict[int, DecoderChild] = {}
        self._next_number = 0

    @property
    def parent_pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the decoder parent, which then imports its libraries by itself. Raises DecoderUnavailableError."""
        try:
            self._started()
        except OSError as exc:
            raise DecoderUnavailableError(f"the decoder parent cannot be started ({exc.strerror})") from exc

    def spawn(self, file_fd: int, *, with_slots: bool) -> DecoderChild:
        """Fork a child for one file, which it sees through `file_fd` only; the caller keeps and closes its own copy.

        Raises DecoderUnavailableError if the decoder parent cannot be started, or the machine has no more to give.
        """
        child = DecoderChild(self._next_number, self, self._slots, end_timeout_s=self._end_timeout_s)
        self._next_number += 1
        with shortage_errors():
            ours, theirs = packet_sockets()
        with ExitStack() as on_failure, theirs:
            on_failure.enter_context(ours)
            fds = [theirs.fileno(), file_fd, *([self._slots.fd] if with_slots else [])]
            self._ask_parent(Spawn(child.number, self._memory_bytes), fds)
            child.connect(Channel(ours, on_packet=child.on_packet, on_end=child.on_silence))
            on_failure.pop_all()
        self._alive[child.number] = child
        self._metrics.decoders_alive.set(len(self._alive))
        return child

    def kill(self, child: DecoderChild, reason: str) -> None:
        """Have the child killed; `child.ended` tells when it is dead."""
        if child.ended.done():
            return
        child.killed_because = child.killed_because or reason
        if self._control is not None:
            try:
                self._control.send(to_wire(Kill(child.number)))
            except OSError:
                # It is gone, and the kernel kills its children, whose sockets tell when; or it stands still, see `end`.
                return

    def kill_parent(self) -> None:
        """It stands still. The kernel kills its children, and the next spawn starts another."""
        if self._process is not None:
            log.error("decoder parent stands still", pid=self._process.pid, children=len(self._alive))
            self._process.kill()

    async def aclose(self) -> None:
        """End the parent and with it every child, and wait for all of them, unless one does not die."""
        children = list(self._alive.values())
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)
        if children:
            _, alive = await asyncio.wait([child.ended for child in children], timeout=self._end_timeout_s)
            if alive:
                log.error("decoders do not die", count=len(alive))
            for child in self._alive.values():
                child.disconnect()
        if self._control is not None:
            self._control.close()
            self._control = None

    def _ask_parent(self, message: Spawn, fds: Sequence[int]) -> None:
        try:
            self._started().send(to_wire(message), fds)
        except OSError as exc:
            if is_shortage(exc):
                raise DecoderUnavailableError(f"the server has no resources left ({exc.strerror})") from exc
            # It died a moment ago, and its end has not been read yet.
            self._on_parent_end()
            try:
                self._started().send(to_wire(message), fds)
            except OSError as exc:
                raise DecoderUnavailableError(
                    "the decoder parent dies at start; its last words are in the log"
                ) from exc

    def _started(self) -> Channel:
        if self._control is None:
            ours, theirs = packet_sockets()
            with theirs:
                # Popen returns when the program has begun, in some milliseconds; it is ready half a second later.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", self._parent_module, str(theirs.fileno())],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            # It outlives whatever is being worked on now, so its log lines must not carry that one's ids.
            self._control = Context().run(Channel, ours, on_packet=self._on_report, on_end=self._on_parent_end)
            log.info("decoder parent started", pid=self._process.pid)
        return self._control

    def _on_report(self, packet: bytes) -> None:
        match from_wire(packet, Spawned, Killed, Ended):
            case Spawned(number, pid) if number in self._alive:
                self._alive[number].pid = pid
            case Killed(number) if number in self._alive:
                self._alive[number].on_killed()
            case Ended(number) as ended if number in self._alive:
                self._on_child_end(self._alive[number], ended)

    def _on_parent_end(self) -> None:
        """The parent died. The kernel kills its children; each is dead when its socket has closed."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            log.error("decoder parent died", children=len(self._alive))
        for child in list(self._alive.values()):
            child.on_orphaned()

    def on_silence(self, child: DecoderChild) -> None:
        if child.is_orphan:
            self._on_child_end(child, Ended(child.number, exit_code=0, signal=signal.SIGKILL))

    def _on_child_end(self, child: DecoderChild, ended: Ended) -> None:
        if self._alive.pop(child.number, None) is not None:
            self._metrics.decoders_alive.set(len(self._alive))
            if ended.was_started and child.killed_because != DISMISSED:
                self._metrics.decoder_exits.labels(child.killed_because or CRASHED).inc()
            child.on_end(ended)


@asynccontextmanager
async def open_children(
    *,
    memory_bytes: int,
    slots: SlotPool,
    metrics: Metrics,
    end_timeout_s: float = END_TIMEOUT_S,
    parent_module: str = DECODER_PARENT,
) -> AsyncIterator[DecoderChildren]:
    """At the end every child that can die is dead, and every slot that it held is back.

    end_timeout_s: for the parent to answer that it has killed a child, and then for the child to be dead.
    parent_module: the program that forks.
    """
    children = DecoderChildren(
        memory_bytes=memory_bytes,
        slots=slots,
        metrics=metrics,
        end_timeout_s=end_timeout_s,
        parent_module=parent_module,
    )
    # Its start-up passes beside the rest of ours, and not in the first upload.
    children.start()
    try:
        yield children
    finally:
        await children.aclose()


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    return {**inherited, **ONE_THREAD, "PYTHONPATH": str(PACKAGE_ROOT)}
