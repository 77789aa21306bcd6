"""A KServe v2 gRPC server for tests: it answers as the embedded Triton does, until it is told to go wrong.

It serves the model of `tests/support/mean_colour`, computed from the frames it is sent or finds in shared memory.
`tests/integration/test_triton_protocol.py` asks it and a real Triton the same things. It lives on a loop and thread of
its own; what tests call may be called from any loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, Final

import grpc
from tritonclient.grpc.service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

from orchestrator.core.contract import ModelCard
from tests.support.fake_kserve_calls import KserveCalls, Region
from tests.support.triton import MEAN_COLOUR, MEAN_COLOUR_MAX_BATCH, mean_colour_card

LOOPBACK: Final = "127.0.0.1"
MAX_MESSAGE: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

# What becomes of one call. `answer` makes the right answer, and refuses what a Triton refuses.
Fault = Callable[["FakeKserve", grpc.aio.ServicerContext, Callable[[], Awaitable[Any]]], Awaitable[Any]]


def refuse(status: grpc.StatusCode, details: str = "the test says so") -> Fault:
    async def fault(server: FakeKserve, context: grpc.aio.ServicerContext, answer: Any) -> Any:
        await context.abort(status, details)

    return fault


def change(edit: Callable[[Any], None]) -> Fault:
    """edit: makes a right answer a wrong one, in place."""

    async def fault(server: FakeKserve, context: grpc.aio.ServicerContext, answer: Any) -> Any:
        message = await answer()
        edit(message)
        return message

    return fault


async def say_nothing(server: FakeKserve, context: grpc.aio.ServicerContext, answer: Any) -> Any:
    await asyncio.Event().wait()


async def wait_for_release(server: FakeKserve, context: grpc.aio.ServicerContext, answer: Any) -> Any:
    await server.released.wait()
    return await answer()


async def break_down(server: FakeKserve, context: grpc.aio.ServicerContext, answer: Any) -> Any:
    await server.die()


async def answer_well(server: FakeKserve, context: grpc.aio.ServicerContext, answer: Any) -> Any:
    return await answer()


@dataclass
class FakeKserve:
    """published: cards by version of each model; `RepositoryModelLoad` and a restart make them the served ones.

    next_faults: of the next calls of a method, in order. faults: of all others. calls: begun, by method; in_flight:
    not ended. allows_shared_memory: what servers from 26.05 on are told by --allow-client-shm; refusal_status: of the
    refusal. instances: of each model. deaths: how many requests for inference were in flight at each.
    """

    published: dict[str, dict[int, ModelCard]] = field(default_factory=lambda: {MEAN_COLOUR: {1: mean_colour_card()}})
    next_faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    faults: dict[str, Fault] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    allows_shared_memory: bool = True
    refusal_status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    instances: int = 1
    max_batch: int = MEAN_COLOUR_MAX_BATCH
    port: int = 0
    deaths: list[int] = field(default_factory=list)
    served: dict[str, dict[int, ModelCard]] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def fail_next(self, *faults: Fault, method: str = "ModelInfer") -> None:
        self.next_faults[method].extend(faults)

    def release(self) -> None:
        """Let calls that `wait_for_release` go on."""
        self._loop.call_soon_threadsafe(self.released.set)

    async def go_away(self) -> None:
        """Close every connection and forget the regions, as a process that is killed."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._stop(), self._loop))

    async def come_back(self) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._start(), self._loop))

    async def until(self, is_so: Callable[[FakeKserve], bool]) -> None:
        """Return when it is so; looked at whenever a call begins or ends."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def listener() -> None:
            loop.call_soon_threadsafe(changed.set)

        self._listeners.append(listener)
        try:
            while not is_so(self):
                await changed.wait()
                changed.clear()
        finally:
            self._listeners.remove(listener)

    async def die(self) -> None:
        """By a call: as a server that is killed by what it does, and started again at the same address."""
        if self._restart is None:
            self.deaths.append(self.in_flight["ModelInfer"])
            self._restart = asyncio.create_task(self._do_restart())
        await asyncio.Event().wait()

    async def _do_restart(self) -> None:
        await self._stop()
        await self._start()
        self._restart = None

    # On its own thread.

    def run(self, started: Future[None]) -> None:
        asyncio.run(self._serve(started))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._over, self.released = asyncio.Event(), asyncio.Event()
        self._listeners: list[Callable[[], object]] = []
        self._restart: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        await self._start()
        started.set_result(None)
        await self._over.wait()
        if self._restart is not None:
            await self._restart
        await self._stop()

    async def _start(self) -> None:
        self.served = {name: dict(cards) for name, cards in self.published.items()}
        self._server = grpc.aio.server(options=MAX_MESSAGE)
        add_GRPCInferenceServiceServicer_to_server(KserveCalls(self), self._server)
        self.port = self._server.add_insecure_port(self.url)
        await self._server.start()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None
        for name in list(self.regions):
            self.forget(name)

    def forget(self, name: str) -> None:
        if region := self.regions.pop(name, None):
            region.memory.close()

    async def answer(self, method: str, context: grpc.aio.ServicerContext, make: Callable[[], Awaitable[Any]]) -> Any:
        self._note(self.calls, method, 1)
        self._note(self.in_flight, method, 1)
        faults = self.next_faults[method]
        fault = faults.popleft() if faults else self.faults.get(method, answer_well)
        try:
            return await fault(self, context, make)
        finally:
            self._note(self.in_flight, method, -1)

    def _note(self, counter: Counter[str], method: str, step: int) -> None:
        counter[method] += step
        for listener in list(self._listeners):
            listener()


@contextmanager
def fake_kserve(**facts: Any) -> Iterator[FakeKserve]:
    """A running server. facts: fields of `FakeKserve`."""
    server = FakeKserve(**facts)
    started: Future[None] = Future()
    thread = Thread(target=server.run, args=(started,), name="fake-kserve")
    thread.start()
    try:
        started.result()
        yield server
    finally:
        server.stop()
        thread.join()
