"""Everything that can go wrong with one Triton, by a server that is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from tritonclient.grpc import service_pb2

from orchestrator.core.types import ServedModel
from orchestrator.errors import (
    ContractError,
    InferenceError,
    ModelChangedError,
    TritonTimeoutError,
    TritonUnavailableError,
)
from orchestrator.inference.connection import CHANNEL_OPTIONS, open_connection
from orchestrator.inference.retrying import Retrying
from orchestrator.settings import Transport, TritonSettings
from orchestrator.telemetry import Metrics
from orchestrator.video.slots import SlotPool
from tests.support.black_hole import open_black_hole
from tests.support.fake_kserve import FakeKserve, change, fake_kserve, refuse, say_nothing, wait_for_release
from tests.support.retry_clock import RetryClock
from tests.support.triton import MEAN_COLOUR, batch_in, mean_colour_card, noise, reaching, triton_settings

QUICK = Retrying(first_s=0.01, longest_s=0.05, budget_s=20)
ONCE = Retrying(budget_s=0)


@pytest.fixture
def fake() -> Iterator[FakeKserve]:
    with fake_kserve() as server:
        yield server


def settings_for(fake: FakeKserve, **variables: str) -> TritonSettings:
    return triton_settings(Path("unused"), TRITON_URL=fake.url, **variables)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, TritonUnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TritonUnavailableError),
        (grpc.StatusCode.ABORTED, TritonUnavailableError),
        (grpc.StatusCode.CANCELLED, TritonUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TritonTimeoutError),
    ],
)
async def test_what_may_pass_is_asked_again_within_the_budget(
    fake: FakeKserve, slots: SlotPool, status: grpc.StatusCode, error: type[InferenceError]
) -> None:
    metrics, clock = Metrics(CollectorRegistry()), RetryClock()
    retrying = clock.retrying(budget_s=10)
    async with reaching(settings_for(fake), slots, retrying=retrying, metrics=metrics) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        fake.fail_next(refuse(status), refuse(status))
        assert (await triton.model.infer(model, batch_in(slots, 0, noise(2)))).shape == (2, 300, 6)
        assert fake.calls["ModelInfer"] == 3
        fake.faults["ModelInfer"] = refuse(status, "always")
        with pytest.raises(error, match="mean_colour:1: always") as caught:
            await triton.model.infer(model, batch_in(slots, 0, noise(2)))
    assert type(caught.value) is error
    assert clock.now_s < 11
    retries = metrics.registry.get_sample_value("trireel_inference_retries_total", {"reason": error.code})
    assert fake.calls["ModelInfer"] == 2 + len(clock.pauses_s) == 2 + (retries or 0)


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
    ],
)
async def test_what_cannot_pass_is_asked_once(fake: FakeKserve, slots: SlotPool, status: grpc.StatusCode) -> None:
    async with reaching(settings_for(fake), slots, transport="grpc") as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        fake.fail_next(refuse(status, "no"))
        with pytest.raises(InferenceError, match="mean_colour:1: no") as caught:
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
        assert type(caught.value) is InferenceError
        assert fake.calls["ModelInfer"] == 1
        assert (await triton.model.infer(model, batch_in(slots, 0, noise(1)))).shape == (1, 300, 6)


def with_candidates(edit: Callable[[Any], object]) -> Callable[[Any], None]:
    """edit: changes the candidates (N, 300, 6) of an answer in place."""

    def edit_answer(answer: Any) -> None:
        candidates = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(-1, 300, 6).copy()
        edit(candidates)
        answer.raw_output_contents[0] = candidates.tobytes()

    return edit_answer


def empty(answer: Any) -> None:
    answer.raw_output_contents[0] = b""


def half(answer: Any) -> None:
    answer.raw_output_contents[0] = answer.raw_output_contents[0][:3600]


GARBAGE = {
    "wrong shape": lambda answer: answer.outputs[0].shape.__setitem__(1, 84),
    "frames missing": lambda answer: answer.outputs[0].shape.__setitem__(0, 1),
    "wrong type": lambda answer: setattr(answer.outputs[0], "datatype", "FP16"),
    "another output": lambda answer: setattr(answer.outputs[0], "name", "output0"),
    "no output": lambda answer: answer.ClearField("outputs"),
    "no content": lambda answer: answer.ClearField("raw_output_contents"),
    "empty content": empty,
    "half the content": half,
    "a confidence that is no number": with_candidates(lambda rows: rows.__setitem__((0, 0, 4), np.nan)),
    "an infinite corner": with_candidates(lambda rows: rows.__setitem__((0, 0, 2), np.inf)),
    "an infinite confidence": with_candidates(lambda rows: rows.__setitem__((0, 0, 4), np.inf)),
    "a confidence over 1": with_candidates(lambda rows: rows.__setitem__((0, 0, 4), 1.01)),
    "a negative confidence": with_candidates(lambda rows: rows.__setitem__((1, 299, 4), -0.1)),
    "the best one last": with_candidates(lambda rows: rows.__setitem__((0, 299, 4), 1.0)),
    "an unknown class": with_candidates(lambda rows: rows.__setitem__((0, 0, 5), 256.0)),
    "half a class": with_candidates(lambda rows: rows.__setitem__((0, 0, 5), 0.5)),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_an_answer_that_breaks_the_contract_is_refused_at_once(
    fake: FakeKserve, slots: SlotPool, garbage: Callable[[Any], None]
) -> None:
    async with reaching(settings_for(fake), slots) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        fake.fail_next(change(garbage))
        with pytest.raises(ContractError, match="mean_colour:1 "):
            await triton.model.infer(model, batch_in(slots, 0, noise(2)))
        assert fake.calls["ModelInfer"] == 1


async def test_a_server_that_never_answers_holds_up_nobody_else(fake: FakeKserve, slots: SlotPool) -> None:
    async with reaching(settings_for(fake, TRITON_TIMEOUT_S="0.5"), slots, retrying=ONCE) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        fake.fail_next(say_nothing)
        unanswered = asyncio.ensure_future(triton.model.infer(model, batch_in(slots, 0, noise(1))))
        await fake.until(lambda server: server.in_flight["ModelInfer"] == 1)
        for slot in range(1, 5):
            assert (await triton.model.infer(model, batch_in(slots, slot, noise(1)))).shape == (1, 300, 6)
        assert not unanswered.done()
        with pytest.raises(TritonTimeoutError, match="mean_colour:1: Deadline Exceeded"):
            await unanswered
        # The server was told that nobody waits any more.
        await fake.until(lambda server: server.in_flight["ModelInfer"] == 0)


async def test_a_slow_server_is_waited_for(fake: FakeKserve, slots: SlotPool) -> None:
    metrics = Metrics(CollectorRegistry())
    async with reaching(settings_for(fake), slots, metrics=metrics) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        fake.fail_next(wait_for_release)
        slow = asyncio.ensure_future(triton.model.infer(model, batch_in(slots, 0, noise(3))))
        await fake.until(lambda server: server.in_flight["ModelInfer"] == 1)
        assert metrics.registry.get_sample_value("trireel_frames_in_flight") == 3
        fake.release()
        assert (await slow).shape == (3, 300, 6)


async def test_shared_memory_is_registered_again_after_a_restart(fake: FakeKserve, slots: SlotPool) -> None:
    async with reaching(settings_for(fake), slots, transport="shm", retrying=QUICK) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        before = await triton.model.infer(model, batch_in(slots, 0, noise(2)))
        await fake.go_away()
        assert not fake.regions
        waiting = asyncio.ensure_future(triton.model.infer(model, batch_in(slots, 1, noise(2))))
        await fake.come_back()
        assert (await waiting).tolist() == before.tolist()
        assert fake.calls["SystemSharedMemoryRegister"] == 2
        assert [region.key for region in fake.regions.values()] == [slots.key]
    assert not fake.regions


async def test_shared_memory_is_registered_again_when_the_restart_went_unnoticed(
    fake: FakeKserve, slots: SlotPool
) -> None:
    async with reaching(settings_for(fake), slots, transport="shm") as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        before = await triton.model.infer(model, batch_in(slots, 0, noise(2)))
        fake.regions.clear()
        assert (await triton.model.infer(model, batch_in(slots, 1, noise(2)))).tolist() == before.tolist()
        assert fake.calls["SystemSharedMemoryRegister"] == 2


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    ],
)
async def test_a_server_that_takes_no_shared_memory_is_sent_the_frames_and_one_warning_is_logged(
    fake: FakeKserve, slots: SlotPool, status: grpc.StatusCode
) -> None:
    """As Triton from 26.05 on, started without --allow-client-shm."""
    async with reaching(settings_for(fake), slots) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        by_shared_memory = await triton.model.infer(model, batch_in(slots, 0, noise(4)))
    fake.allows_shared_memory, fake.refusal_status = False, status
    with capture_logs() as logs:
        async with reaching(settings_for(fake), slots, retrying=QUICK) as triton:
            answers = [await triton.model.infer(model, batch_in(slots, slot, noise(4))) for slot in range(3)]
            await fake.go_away()
            await fake.come_back()
            answers.append(await triton.model.infer(model, batch_in(slots, 0, noise(4))))
            readiness = await triton.readiness()
    assert all(np.array_equal(answer, by_shared_memory) for answer in answers)
    assert (readiness.is_ready, readiness.transport) == (True, "grpc")
    assert "--allow-client-shm=true" in readiness.transport_reason
    assert [entry["log_level"] for entry in logs if entry["event"] == "shared memory refused"] == ["warning"]


@pytest.mark.parametrize("transport", ["shm", "grpc"])
async def test_another_network_after_a_restart_ends_the_run(
    fake: FakeKserve, slots: SlotPool, transport: Transport
) -> None:
    async with reaching(settings_for(fake), slots, transport=transport, retrying=QUICK) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        fake.fail_next(wait_for_release)
        under_way = asyncio.ensure_future(triton.model.infer(model, batch_in(slots, 0, noise(1))))
        await fake.until(lambda server: server.in_flight["ModelInfer"] == 1)
        fake.published[MEAN_COLOUR] = {1: mean_colour_card("c" * 64)}
        await fake.go_away()
        waiting = asyncio.ensure_future(triton.model.infer(model, batch_in(slots, 1, noise(1))))
        await fake.come_back()
        for request in (under_way, waiting):
            with pytest.raises(ModelChangedError, match="another network as mean_colour:1"):
                await request
        assert fake.calls["ModelInfer"] == 1
        assert (await triton.catalogue.find(MEAN_COLOUR)).version.digest == "c" * 64


async def test_no_restart_is_too_quick_to_be_noticed(fake: FakeKserve, slots: SlotPool) -> None:
    async with reaching(settings_for(fake), slots, retrying=QUICK) as triton:
        for digest in "cdefab":
            model = await triton.catalogue.find(MEAN_COLOUR)
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
            fake.published[MEAN_COLOUR] = {1: mean_colour_card(digest * 64)}
            await fake.go_away()
            await fake.come_back()
            with pytest.raises(ModelChangedError):
                await triton.model.infer(model, batch_in(slots, 0, noise(1)))


async def test_another_network_loaded_without_a_restart_is_found_out(fake: FakeKserve, slots: SlotPool) -> None:
    async with reaching(settings_for(fake), slots) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        await triton.model.infer(model, batch_in(slots, 0, noise(1)))
        fake.published[MEAN_COLOUR] = {1: mean_colour_card("c" * 64)}
        await triton.catalogue.load(MEAN_COLOUR)
        with pytest.raises(ModelChangedError):
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))


async def test_a_listing_that_fails_is_an_error_of_the_tree(fake: FakeKserve, slots: SlotPool) -> None:
    async with reaching(settings_for(fake), slots) as triton:
        for status, error in (
            (grpc.StatusCode.UNAVAILABLE, TritonUnavailableError),
            (grpc.StatusCode.DEADLINE_EXCEEDED, TritonTimeoutError),
            (grpc.StatusCode.UNIMPLEMENTED, InferenceError),
        ):
            fake.fail_next(refuse(status), method="RepositoryIndex")
            with pytest.raises(error, match="listing models: the test says so"):
                await triton.catalogue.list()
            fake.fail_next(refuse(status), method="RepositoryIndex")
            readiness = await triton.readiness()
            assert (readiness.is_ready, len(readiness.reasons)) == (False, 1)
        assert (await triton.readiness()).is_ready


# Half a connection.


@pytest.fixture
def quick_keepalive() -> tuple[tuple[str, int], ...]:
    changed = {"grpc.keepalive_time_ms": 200, "grpc.keepalive_timeout_ms": 200, "grpc.http2.ping_timeout_ms": 200}
    return tuple((name, changed.get(name, value)) for name, value in CHANNEL_OPTIONS)


async def test_a_connection_that_carries_nothing_is_noticed_by_the_deadline(fake: FakeKserve, slots: SlotPool) -> None:
    async with open_black_hole(fake.port) as proxy:
        settings = replace(settings_for(fake, TRITON_TIMEOUT_S="0.3"), urls=(proxy.url,))
        async with reaching(settings, slots, retrying=ONCE) as triton:
            model: ServedModel = await triton.catalogue.find(MEAN_COLOUR)
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
            proxy.swallow()
            with pytest.raises(TritonTimeoutError):
                await triton.model.infer(model, batch_in(slots, 0, noise(1)))
            proxy.carry()
            retrying = triton.model.infer(model, batch_in(slots, 0, noise(1)))
            assert (await retrying).shape == (1, 300, 6)


async def test_a_connection_that_carries_nothing_is_noticed_by_keepalive_long_before_the_deadline(
    fake: FakeKserve, quick_keepalive: tuple[tuple[str, int], ...]
) -> None:
    async with (
        open_black_hole(fake.port) as proxy,
        open_connection(proxy.url, options=quick_keepalive) as connection,
    ):
        await connection.wait_connected()
        epoch = connection.epoch
        await connection.call("RepositoryIndex", service_pb2.RepositoryIndexRequest, timeout_s=5)
        proxy.swallow()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.call("RepositoryIndex", service_pb2.RepositoryIndexRequest, timeout_s=600)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await connection.was_lost(epoch)
        proxy.carry()
        await connection.wait_connected()
        await connection.call("RepositoryIndex", service_pb2.RepositoryIndexRequest, timeout_s=5)
        assert connection.epoch > epoch
