"""Hearing the doorbell: keeps a listener at work, and starts another when it dies or has gone deaf."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from orchestrator.cancellation import is_cancelled, is_done_within
from orchestrator.errors import DoorbellError
from orchestrator.scheduling.doorbell import SIGN_OF_LIFE_EVERY_S, Doorbells
from orchestrator.worker.orders import FOUND_NOTHING, RANG, Orders

log = structlog.get_logger()

LISTENER: Final = "orchestrator.worker.listener"
# Rings lie in the queue, this worker has nothing to do, and its listener brought none for so long: it hears nothing.
# Seen with Celery 5.7 after Redis was killed: "Couldn't ack", and from then on nothing.
DEAF_AFTER_S: Final = 10.0
SIGN_OUT_TIMEOUT_S: Final = 0.5
# Of a listener's start, which imports Celery and finds Redis.
START_GRACE_S: Final = 30.0
FIRST_RESTART_DELAY_S: Final = 0.5
LONGEST_RESTART_DELAY_S: Final = 15.0
# A listener that lived so long did not die of its start.
HEALTHY_AFTER_S: Final = 60.0


@dataclass(slots=True, kw_only=True)
class Hearing:
    """work_until_idle: called at every ring. monotonic_s: a clock for durations. pid: of the listener, if it lives.

    python: what runs a listener.
    """

    orders: Orders
    doorbells: Doorbells
    work_until_idle: Callable[[], Awaitable[None]]
    monotonic_s: Callable[[], float] = time.monotonic
    deaf_after_s: float = DEAF_AFTER_S
    sign_every_s: float = SIGN_OF_LIFE_EVERY_S
    python: str = sys.executable
    pid: int | None = None
    # None while a ring is being answered.
    _idle_since_s: float | None = None

    async def keep_hearing(self) -> None:
        """Until cancelled; then the ring under way is let go and the worker signs out."""
        delay_s = FIRST_RESTART_DELAY_S
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sign_in_again_and_again())
                while True:
                    began_s = self.monotonic_s()
                    try:
                        reason = await self._hear_once()
                    except OSError as exc:
                        # No descriptor or no process to be had: the worker looks by itself meanwhile.
                        reason = f"it could not be started ({exc})"
                    log.warning("doorbell listener starts again", reason=reason)
                    if self.monotonic_s() - began_s > HEALTHY_AFTER_S:
                        delay_s = FIRST_RESTART_DELAY_S
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, LONGEST_RESTART_DELAY_S)
        finally:
            await self._sign_out()

    async def _hear_once(self) -> str:
        """The life of one listener; why it ended."""
        async with self._listener() as link:
            self._idle_since_s = self.monotonic_s() + START_GRACE_S
            tasks = [asyncio.ensure_future(step) for step in (self._answer_rings(link), self._until_deaf())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                return done.pop().result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def _listener(self) -> AsyncIterator[socket.socket]:
        """A listener and the way to it; at the end it is killed: a ring that it had not told of costs time only."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    self.python,
                    "-m",
                    LISTENER,
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.PIPE,
                    # Ctrl-C at the terminal is for the worker, which then ends it.
                    start_new_session=True,
                )
            ours.setblocking(False)
            self.pid = process.pid
            try:
                assert process.stdin is not None
                process.stdin.write(msgspec.json.encode(self.orders))
                process.stdin.close()
                yield ours
            finally:
                self.pid = None
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def _answer_rings(self, link: socket.socket) -> str:
        """Work at every ring, until the listener ends."""
        loop = asyncio.get_running_loop()
        try:
            while said := await loop.sock_recv(link, 1):
                if said == RANG:
                    self._idle_since_s = None
                    await self.work_until_idle()
                    await loop.sock_sendall(link, FOUND_NOTHING)
                self._idle_since_s = self.monotonic_s()
        except ConnectionError as exc:
            return f"it died ({exc})"
        return "it died"

    async def _until_deaf(self) -> str:
        missed_since_s: float | None = None
        while True:
            await asyncio.sleep(self.deaf_after_s / 4)
            idle_since_s = self._idle_since_s
            if idle_since_s is None or self.monotonic_s() - idle_since_s < self.deaf_after_s:
                continue
            try:
                is_missed = await self.doorbells.waiting() > 0 and self._idle_since_s == idle_since_s
            except DoorbellError:
                # Nobody hears anything while Redis is away.
                self._idle_since_s = self.monotonic_s()
                continue
            # At two looks in a row: a ring that has only just come is no sign.
            if is_missed and missed_since_s == idle_since_s:
                return f"it heard none of the rings of {self.deaf_after_s:g} s"
            missed_since_s = idle_since_s if is_missed else None

    async def _sign_in_again_and_again(self) -> None:
        while not is_cancelled():
            try:
                await self.doorbells.sign_in(self.orders.worker_id)
            except DoorbellError as exc:
                log.debug("worker cannot sign in", reason=str(exc))
            await asyncio.sleep(self.sign_every_s)

    async def _sign_out(self) -> None:
        """Whoever could not is forgotten soon, and segments wait to be handed back."""
        try:
            if await is_done_within(SIGN_OUT_TIMEOUT_S, self.doorbells.sign_out(self.orders.worker_id)):
                return
            reason = f"Redis was silent for {SIGN_OUT_TIMEOUT_S:g} s"
        except DoorbellError as exc:
            reason = str(exc)
        log.info("worker could not sign out", reason=reason)
