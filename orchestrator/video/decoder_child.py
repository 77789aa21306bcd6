"""One decoder child as the orchestrator sees it."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar, cast

import structlog

from orchestrator.errors import (
    DecoderCrashedError,
    DecoderStalledError,
    DecoderUnavailableError,
    VideoEncryptedError,
    VideoError,
    VideoOverLimitError,
    VideoUnreadableError,
    VideoWithoutPictureError,
)
from orchestrator.video.channel import Channel
from orchestrator.video.messages import Alive, Ended, Fill, MessageError, Refused, from_wire, to_wire
from orchestrator.video.slots import SlotPool

log = structlog.get_logger(__name__)

Message = TypeVar("Message")

# A child waits once this many of its messages wait for us.
MOST_UNREAD: Final = 32
# Why a child ended: values of a metric's label.
CRASHED: Final = "crashed"
STALLED: Final = "stalled"
BROKE_PROTOCOL: Final = "broke_protocol"
DISMISSED: Final = "dismissed"
REFUSALS: Final = {
    each.code: each
    for each in (
        VideoError,
        VideoUnreadableError,
        VideoWithoutPictureError,
        VideoEncryptedError,
        VideoOverLimitError,
    )
}


class Keeper(Protocol):
    """Whoever spawned the child."""

    def kill(self, child: DecoderChild, reason: str) -> None:
        """Have the child killed; `child.ended` tells when it is dead."""
        ...

    def kill_parent(self) -> None:
        """End the process that forked the child, and with it every child."""
        ...

    def on_silence(self, child: DecoderChild) -> None:
        """The child's socket has closed."""
        ...


class DecoderChild:
    """One child. Slots it holds come back when it hands them back, or when it is known dead; never before."""

    def __init__(self, number: int, keeper: Keeper, slots: SlotPool, *, end_timeout_s: float) -> None:
        self.number = number
        self.pid: int | None = None
        self.held: set[int] = set()
        self._keeper = keeper
        self._slots = slots
        self._end_timeout_s = end_timeout_s
        self._unread: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._is_silent = False
        self._channel: Channel | None = None
        self.killed_because: str | None = None
        # Its parent is dead, so the kernel kills it, and nobody but its socket tells when.
        self.is_orphan = False
        self._is_given_up = False
        # The signal that kills it is on its way.
        self._doomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    @property
    def is_usable(self) -> bool:
        return not (self._is_silent or self._is_given_up or self.ended.done())

    def connect(self, channel: Channel) -> None:
        self._channel = channel

    def disconnect(self) -> None:
        """Listen no more to a child that does not die."""
        self._connected.close()

    def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """Raises DecoderCrashedError if the child reads no more."""
        try:
            self._connected.send(to_wire(message), fds)
        except OSError as exc:
            raise DecoderCrashedError(f"a decoder takes no requests any more ({exc.strerror})") from exc

    def lend(self, slot: int) -> None:
        """Let the child fill a slot; from here on the slot is the child's to give back.

        Nothing happens but that where the child is dying: the next `receive` tells.
        """
        if self.ended.done():
            self._slots.give_back(slot)
            return
        self.held.add(slot)
        try:
            self.send(Fill(slot))
        except DecoderCrashedError:
            # It keeps the slot until it is known dead.
            self._is_silent = True

    def take_back(self, slot: int) -> None:
        """The child handed a slot back with a batch in it; from here on it is the caller's to give back."""
        self.held.remove(slot)

    def give_back_held(self) -> None:
        """The child touches none of its slots any more."""
        while self.held:
            self._slots.give_back(self.held.pop())

    async def receive(self, *kinds: type[Message], timeout_s: float) -> Message:
        """The next message, which must be of one of `kinds`; a sign of life begins the time-out anew.

        Raises VideoError if the child refuses the file, DecoderStalledError, DecoderCrashedError. After all but a
        refusal the child has been ended.
        """
        while True:
            packet = await self._next_packet(timeout_s)
            try:
                message = from_wire(packet, Alive, Refused, *kinds)
            except MessageError as exc:
                await self.end(BROKE_PROTOCOL)
                raise DecoderCrashedError(f"a decoder sent what it never should: {exc}") from exc
            if isinstance(message, Refused):
                self.give_back_held()
                raise REFUSALS.get(message.code, VideoError)(message.message)
            if not isinstance(message, Alive):
                return cast(Message, message)

    async def end(self, reason: str) -> Ended | None:
        """Kill the child and wait until it is dead. reason: for the metric.

        A parent that gives no answer stands still, and is killed with all its children. None where the child does not
        die all the same, as one that waits in the kernel for a disk: it keeps its slots until it does.
        """
        if not self._is_given_up:
            self._keeper.kill(self, reason)
            await self._until_dead()
        return self.ended.result() if self.ended.done() else None

    async def _until_dead(self) -> None:
        # Cancelled tasks end their children too, and `asyncio.timeout` fails them before Python 3.11.4.
        await asyncio.wait([self._doomed], timeout=self._end_timeout_s)
        # Where this process stood still itself, the answer is there, and to be read first.
        await asyncio.sleep(0)
        if not self._doomed.done():
            self._keeper.kill_parent()
        await asyncio.wait([self.ended], timeout=self._end_timeout_s)
        if not self.ended.done():
            self._is_given_up = True
            log.error("decoder does not die", pid=self.pid, slots=len(self.held))

    async def _next_packet(self, timeout_s: float) -> bytes:
        while not self._unread:
            if self._is_silent:
                ended = await self.end(CRASHED)
                if ended is not None and not ended.was_started:
                    raise DecoderUnavailableError("the server has no process left for a decoder")
                raise DecoderCrashedError(f"a decoder {_manner(ended)}")
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError as exc:
                await self.end(STALLED)
                raise DecoderStalledError(f"a decoder gave no sign of life for {timeout_s:g} s") from exc
        self._connected.resume()
        return self._unread.popleft()

    @property
    def _connected(self) -> Channel:
        if self._channel is None:
            raise ValueError("a child is used before it was spawned")
        return self._channel

    def on_packet(self, packet: bytes) -> None:
        self._unread.append(packet)
        self._news.set()
        if len(self._unread) >= MOST_UNREAD:
            self._connected.pause()

    def on_killed(self) -> None:
        """The signal that kills it is on its way."""
        if not self._doomed.done():
            self._doomed.set_result(None)

    def on_orphaned(self) -> None:
        self.is_orphan = True
        self.on_killed()
        if self._is_silent:
            self.on_silence()
        else:
            # Read on to the end of the socket.
            self._unread.clear()
            self._connected.resume()

    def on_silence(self) -> None:
        """Its socket closed: it is dead or dying."""
        self._is_silent = True
        self._news.set()
        self._keeper.on_silence(self)

    def on_end(self, ended: Ended) -> None:
        """It is dead: nothing writes into its slots any more."""
        if not self.ended.done():
            self.give_back_held()
            self.ended.set_result(ended)
            self.on_killed()
            self._is_silent = True
            self._unread.clear()
            self._connected.close()
            self._news.set()


def _manner(ended: Ended | None) -> str:
    if ended is None:
        return "says nothing any more, and does not die"
    if ended.signal:
        return f"was killed by {signal.Signals(ended.signal).name}"
    return f"ended by itself with exit code {ended.exit_code}"
