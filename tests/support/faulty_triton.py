"""A gRPC server in front of a real Triton that passes everything on, but for the calls it was told to spoil."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock, Thread
from typing import Any, Final

import grpc

from tests.support.programs import LOOPBACK

INFER: Final = "ModelInfer"
REGISTER: Final = "SystemSharedMemoryRegister"
SERVER_READY: Final = "/inference.GRPCInferenceService/ServerReady"
READY_TIMEOUT_S: Final = 2.0
UNLIMITED: Final = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
MOST_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoiling:
    """What becomes of a call. status: the answer, without asking Triton. delay_s: before Triton is asked.

    doctor: what to make of Triton's answer, in bytes.
    """

    status: grpc.StatusCode | None = None
    delay_s: float = 0.0
    doctor: Callable[[bytes], bytes] | None = None


# Says what becomes of the n-th call (1, 2, ...) of a method since the plan was made; None lets it pass.
Plan = Callable[[str, int], Spoiling | None]


@dataclass(slots=True)
class FaultyTriton:
    """grpc_url: where to reach it. spoilt: calls that were spoilt, by method; calls: all."""

    target: str
    grpc_url: str = ""
    spoilt: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    _plan: Plan | None = None
    _since_plan: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    def spoil(self, plan: Plan | None) -> None:
        """From now on; None lets everything pass again."""
        with self._lock:
            self._plan = plan
            self._since_plan.clear()

    def spoil_first(self, method: str, count: int, spoiling: Spoiling) -> None:
        """The next `count` calls of a method."""
        self.spoil(lambda called, number: spoiling if called == method and number <= count else None)

    def spoil_all(self, method: str, spoiling: Spoiling) -> None:
        self.spoil(lambda called, _: spoiling if called == method else None)

    def due(self, method: str) -> Spoiling | None:
        """What becomes of this call; counts it."""
        with self._lock:
            self.calls[method] += 1
            self._since_plan[method] += 1
            spoiling = self._plan(method, self._since_plan[method]) if self._plan else None
            self.spoilt[method] += spoiling is not None
            return spoiling


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, faulty: FaultyTriton, channel: grpc.aio.Channel) -> None:
        self._faulty = faulty
        self._channel = channel

    def service(self, handler_call_details: Any) -> Any:
        # Without serializers both sides pass bytes on as they are.
        return grpc.unary_unary_rpc_method_handler(partial(self._handle, handler_call_details.method))

    async def _handle(self, method: str, request: bytes, context: Any) -> bytes:
        spoiling = self._faulty.due(method.rpartition("/")[2])
        if spoiling is None:
            return await self._pass_on(method, request, context)
        if spoiling.delay_s:
            await asyncio.sleep(spoiling.delay_s)
        if spoiling.status is not None:
            await context.abort(spoiling.status, "as the test wants it")
        answer = await self._pass_on(method, request, context)
        return spoiling.doctor(answer) if spoiling.doctor else answer

    async def _pass_on(self, method: str, request: bytes, context: Any) -> bytes:
        call: Callable[..., Awaitable[bytes]] = self._channel.unary_unary(method)
        try:
            return await call(request, timeout=min(context.time_remaining() or MOST_S, MOST_S))
        except grpc.aio.AioRpcError as exc:
            return await context.abort(exc.code(), exc.details())


def is_server_ready(grpc_url: str) -> bool:
    """What Triton itself says, asked without anything of ours."""
    with grpc.insecure_channel(grpc_url) as channel:
        try:
            # An empty request; the answer is one boolean, left out where it is false.
            return bool(channel.unary_unary(SERVER_READY)(b"", timeout=READY_TIMEOUT_S))
        except grpc.RpcError:
            return False


@contextmanager
def faulty_triton(target: str) -> Iterator[FaultyTriton]:
    """target: host:port of the real one. On a loop and thread of its own."""
    faulty = FaultyTriton(target)
    ready: Future[None] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = grpc.aio.server(options=UNLIMITED)
        async with grpc.aio.insecure_channel(target, options=UNLIMITED) as channel:
            server.add_generic_rpc_handlers((_Handler(faulty, channel),))
            faulty.grpc_url = f"{LOOPBACK}:{server.add_insecure_port(f'{LOOPBACK}:0')}"
            await server.start()
            ready.set_result(None)
            await stop.wait()
            await server.stop(grace=0)

    thread = Thread(target=lambda: loop.run_until_complete(serve()), name="faulty-triton")
    thread.start()
    try:
        ready.result(timeout=MOST_S)
        yield faulty
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
