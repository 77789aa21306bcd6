"""One gRPC channel to a Triton, on an event loop and thread of its own.

Serialising frames and reading answers must not delay the loop that answers people. Calls cross over with
`run_coroutine_threadsafe`; cancelling the caller's await cancels the call.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from orchestrator.errors import InferenceError, TritonTimeoutError, TritonUnavailableError

# These replace all of gRPC's and tritonclient's defaults. Reconnecting: gRPC's own back-off grows to minutes, while a
# Triton that starts again is back within seconds. Keepalive: only while a call is open, and so few pings that a server
# that was not told to expect them does not hang up; every call has a deadline besides. Ping time-out: with data gRPC
# sends a ping of its own, and no second one while that is out; by default it waits a minute for it (seen with 1.85).
ChannelOptions = tuple[tuple[str, int], ...]
CHANNEL_OPTIONS: Final[ChannelOptions] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 2),
)
# CANCELLED is the server's: it stops, or lets go of the call; our own cancelling is no status.
ERROR_BY_STATUS: Final[dict[grpc.StatusCode, type[InferenceError]]] = {
    grpc.StatusCode.UNAVAILABLE: TritonUnavailableError,
    grpc.StatusCode.CANCELLED: TritonUnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TritonUnavailableError,
    grpc.StatusCode.ABORTED: TritonUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TritonTimeoutError,
}
# Of calls that perhaps no server answered; one that lives may answer UNAVAILABLE, too.
NO_ANSWER: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)

# How often the channel's state is looked at between calls: often while it is not ready, since somebody may wait.
WATCH_S: Final = 0.2
WATCH_AWAY_S: Final = 0.05
# gRPC fails the calls of a lost connection up to some milliseconds before it tells the loss (seen with grpcio 1.85).
LOSS_LOOKS: Final = 4
LOSS_LOOK_S: Final = 0.005
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"


@contextmanager
def triton_errors(subject: str) -> Iterator[None]:
    """Translate gRPC's errors by their status; `subject` begins the sentence."""
    try:
        yield
    except grpc.aio.AioRpcError as exc:
        kind = TritonUnavailableError if _lacks_room(exc) else ERROR_BY_STATUS.get(exc.code(), InferenceError)
        raise kind(f"{subject}: {exc.details()}") from exc


def _lacks_room(exc: grpc.aio.AioRpcError) -> bool:
    """Whether shared memory of the server's own was full, which passes and says nothing of the frames.

    Seen with 2.51, whose Python backend enlarges its pool when larger batches come: "Failed to increase the shared
    memory pool size for key ... Error: No space left on device".
    """
    return exc.code() is grpc.StatusCode.INTERNAL and os.strerror(errno.ENOSPC) in (exc.details() or "")


@dataclass(slots=True)
class CallCount:
    """How many calls a server answered, whatever it said, and how many it did not. Both only grow.

    Written on the connection's thread, read on any.
    """

    answered: int = 0
    unanswered: int = 0


class TritonConnection:
    """A channel that connects by itself, and again. Made by `open_connection`.

    epoch: grows whenever the channel becomes ready; what was known of the server in an earlier epoch may be wrong.
    """

    def __init__(self, url: str, *, calls: CallCount, options: ChannelOptions) -> None:
        self.url = url
        self.epoch = 0
        self._count = calls
        self._options = options
        self._opened: Future[None] = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()), name="triton-connection", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._connected: asyncio.Event
        self._channel: grpc.aio.Channel
        self._stub: GRPCInferenceServiceStub
        self._infer: Callable[..., Awaitable[Any]]
        self._closing = Event()
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    async def open(self) -> None:
        """Start the thread and begin to connect; does not wait for the server."""
        self._thread.start()
        await asyncio.wrap_future(self._opened)

    async def wait_connected(self) -> None:
        crossing = asyncio.run_coroutine_threadsafe(self._connected.wait(), self._loop)
        await asyncio.wrap_future(crossing)

    async def call(self, method: str, build: Callable[[], Any], *, timeout_s: float) -> Any:
        """Call a method of Triton's gRPC service; requests and answers are its protobuf messages, which have no types.

        build: makes the request, on the connection's thread. Raises grpc.aio.AioRpcError; TritonUnavailableError after
        `aclose`.
        """

        async def call() -> Any:
            self._look()
            return await self._counted(getattr(self._stub, method)(build(), timeout=timeout_s))

        return await self._cross(call)

    async def infer(self, build: Callable[[], bytes], *, timeout_s: float) -> Any:
        """As `call` for ModelInfer, whose request is made on the wire: its frames are large, and copied once less.

        Raises TritonUnavailableError also while there is no connection, instead of making one.
        """

        async def call() -> Any:
            # gRPC would connect anew by itself, unseen, and perhaps to a server with other models.
            self._look()
            if not self.is_connected:
                raise TritonUnavailableError(f"Triton at {self.url} is away")
            return await self._counted(self._infer(build(), timeout=timeout_s))

        return await self._cross(call)

    async def was_lost(self, epoch: int) -> bool:
        """Whether the connection of that epoch is gone; asked right after a call failed."""
        return bool(await self._cross(lambda: self._look_for_loss(epoch)))

    async def _look_for_loss(self, epoch: int) -> bool:
        for _ in range(LOSS_LOOKS):
            self._look()
            if self.epoch != epoch or not self.is_connected:
                return True
            await asyncio.sleep(LOSS_LOOK_S)
        return False

    async def _cross(self, start: Callable[[], Awaitable[Any]]) -> Any:
        """Start a call on the connection's thread and wait for it here."""
        if self._closing.is_set():
            raise TritonUnavailableError(f"the connection to {self.url} is closed")
        crossing = asyncio.run_coroutine_threadsafe(self._send(start), self._loop)
        try:
            return await asyncio.wrap_future(crossing)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closing.is_set() and task is not None and not task.cancelling():
                raise TritonUnavailableError(f"the connection to {self.url} was closed") from None
            raise

    async def aclose(self) -> None:
        """Cancel the open calls, close the channel, end the thread."""
        self._closing.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join)

    async def _send(self, start: Callable[[], Awaitable[Any]]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            return await start()
        finally:
            self._calls.discard(task)

    async def _counted(self, call: Awaitable[Any]) -> Any:
        try:
            answer = await call
        except grpc.aio.AioRpcError as exc:
            if exc.code() in NO_ANSWER:
                self._count.unanswered += 1
            else:
                self._count.answered += 1
            raise
        self._count.answered += 1
        return answer

    async def _serve(self) -> None:
        """The thread's only coroutine: owns the channel until `aclose`."""
        self._loop = asyncio.get_running_loop()
        self._stop, self._connected = asyncio.Event(), asyncio.Event()
        async with (
            grpc.aio.insecure_channel(self.url, options=self._options) as channel,
            asyncio.TaskGroup() as group,
        ):
            self._channel = channel
            self._stub = GRPCInferenceServiceStub(channel)
            # Without a serializer gRPC takes the bytes as they are.
            self._infer = channel.unary_unary(INFER, response_deserializer=service_pb2.ModelInferResponse.FromString)
            watcher = group.create_task(self._watch())
            self._opened.set_result(None)
            await self._stop.wait()
            watcher.cancel()
            await self._cancel_calls()

    async def _cancel_calls(self) -> None:
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _watch(self) -> None:
        """Connect, and see when the server is lost while nobody calls it; every call looks by itself.

        Not with `wait_for_state_change`: gRPC would report the end of that wait to this loop after the loop's own end,
        as an error on some other one (seen with grpcio 1.85).
        """
        while True:
            self._look()
            await asyncio.sleep(WATCH_S if self.is_connected else WATCH_AWAY_S)

    def _look(self) -> None:
        is_ready = self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY
        if is_ready and not self._connected.is_set():
            self.epoch += 1
            self._connected.set()
        elif not is_ready:
            self._connected.clear()


@asynccontextmanager
async def open_connection(
    url: str, *, calls: CallCount | None = None, options: ChannelOptions = CHANNEL_OPTIONS
) -> AsyncIterator[TritonConnection]:
    """url: host:port. Never fails because of the server: it may come later. calls: to be counted there."""
    connection = TritonConnection(url, calls=calls or CallCount(), options=options)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.aclose()
