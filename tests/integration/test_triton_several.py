"""One process and several Tritons: where batches go, and what becomes of them when one of the servers fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from orchestrator.errors import (
    InferenceError,
    ModelChangedError,
    ModelNotFoundError,
    ModelNotReadyError,
    TritonTimeoutError,
    TritonUnavailableError,
)
from orchestrator.inference.retrying import Retrying
from orchestrator.inference.triton import Triton
from orchestrator.settings import Transport
from orchestrator.telemetry import Metrics
from orchestrator.video.slots import SlotPool
from tests.support.fake_kserve import FakeKserve, fake_kserve, refuse, say_nothing, wait_for_release
from tests.support.retry_clock import RetryClock
from tests.support.triton import (
    MEAN_COLOUR,
    RunningTriton,
    batch_in,
    mean_colour_card,
    noise,
    reaching,
    triton_settings,
)

Pair = tuple[FakeKserve, FakeKserve]
OTHER = {MEAN_COLOUR: {1: mean_colour_card("c" * 64)}}
QUICK = Retrying(first_s=0.01, longest_s=0.05, budget_s=20)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with fake_kserve() as first, fake_kserve() as second:
        yield first, second


async def no_pause(pause_s: float) -> None:
    raise AssertionError(f"waited {pause_s} s instead of asking the other server")


AT_ONCE = Retrying(sleep=no_pause)


@asynccontextmanager
async def reaching_all(
    slots: SlotPool,
    *servers: FakeKserve,
    transport: Transport = "auto",
    retrying: Retrying = AT_ONCE,
    metrics: Metrics | None = None,
    timeout_s: float = 30.0,
) -> AsyncIterator[Triton]:
    """The way to servers that are all connected."""
    urls = ",".join(server.url for server in servers)
    settings = replace(triton_settings(Path("unused"), TRITON_URL=urls), timeout_s=timeout_s)
    async with reaching(settings, slots, transport=transport, retrying=retrying, metrics=metrics) as triton:
        await until_all_answer(triton)
        yield triton


async def until_all_answer(triton: Triton) -> None:
    while any("not answer" in reason for reason in (await triton.readiness()).reasons):
        pass


def in_flight(server: FakeKserve) -> int:
    return server.in_flight["ModelInfer"]


def asked(server: FakeKserve) -> int:
    return server.calls["ModelInfer"]


async def test_work_is_spread_over_the_servers(pair: Pair, slots: SlotPool) -> None:
    for server in pair:
        server.faults["ModelInfer"] = wait_for_release
    async with reaching_all(slots, *pair) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        batches = [batch_in(slots, slot, noise(2)) for slot in range(8)]
        async with asyncio.TaskGroup() as group:
            requests = [group.create_task(triton.model.infer(model, batch)) for batch in batches]
            for server in pair:
                await server.until(lambda server: in_flight(server) == 4)
            for server in pair:
                server.release()
    for batch, request in zip(batches, requests, strict=True):
        expected = batch.pixels[..., 0].mean(axis=(1, 2)) / 255
        assert request.result()[:, 0, 4] == pytest.approx(expected)


async def test_frames_count_and_not_requests(pair: Pair, slots: SlotPool) -> None:
    for server in pair:
        server.faults["ModelInfer"] = wait_for_release
    async with reaching_all(slots, *pair) as triton, asyncio.TaskGroup() as group:
        model = await triton.catalogue.find(MEAN_COLOUR)
        group.create_task(triton.model.infer(model, batch_in(slots, 0, noise(4))))
        waits = [asyncio.ensure_future(server.until(lambda server: in_flight(server) == 1)) for server in pair]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        laden, other = pair if in_flight(pair[0]) else pair[::-1]
        for slot in range(1, 5):
            group.create_task(triton.model.infer(model, batch_in(slots, slot, noise(1))))
            await other.until(lambda server, slot=slot: in_flight(server) == slot)
        assert in_flight(laden) == 1
        for wait in waits:
            wait.cancel()
        for server in pair:
            server.release()


@pytest.mark.parametrize(
    "status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED]
)
async def test_a_server_that_fails_costs_no_pause(pair: Pair, slots: SlotPool, status: grpc.StatusCode) -> None:
    metrics = Metrics(CollectorRegistry())
    async with reaching_all(slots, *pair, metrics=metrics) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        pair[0].faults["ModelInfer"] = refuse(status)
        for slot in range(8):
            assert (await triton.model.infer(model, batch_in(slots, slot, noise(1)))).shape == (1, 300, 6)
    assert (asked(pair[0]), asked(pair[1])) == (1, 8)
    retries = metrics.registry.get_sample_value("trireel_inference_retries_total", {"reason": "triton_unavailable"})
    assert retries == 1


async def test_a_server_that_is_killed_costs_no_frame_and_gets_work_again(pair: Pair, slots: SlotPool) -> None:
    for server in pair:
        server.faults["ModelInfer"] = wait_for_release
    async with reaching_all(slots, *pair, retrying=QUICK) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        batches = [batch_in(slots, slot, noise(1)) for slot in range(8)]
        async with asyncio.TaskGroup() as group:
            requests = [group.create_task(triton.model.infer(model, batch)) for batch in batches]
            await pair[0].until(lambda server: in_flight(server) == 4)
            await pair[0].go_away()
            await pair[1].until(lambda server: in_flight(server) == 8)
            pair[1].release()
        assert all(request.result().shape == (1, 300, 6) for request in requests)
        readiness = await triton.readiness()
        assert readiness.is_ready
        assert [reason.partition(": ")[0] for reason in readiness.reasons] == [pair[0].url]
        assert [each.is_ready for each in readiness.endpoints] == [False, True]
        pair[0].faults.clear()
        await pair[0].come_back()
        before = asked(pair[0])
        while asked(pair[0]) == before:
            await triton.model.infer(model, batches[0])
        assert (await triton.readiness()).reasons == ()


async def test_a_server_that_hangs_keeps_one_batch_and_no_more(pair: Pair, slots: SlotPool) -> None:
    async with reaching_all(slots, *pair, timeout_s=1) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        pair[0].faults = {method: say_nothing for method in ("ModelInfer", "RepositoryIndex")}
        for slot in range(8):
            for _ in range(2):
                assert (await triton.model.infer(model, batch_in(slots, slot, noise(1)))).shape == (1, 300, 6)
    assert (asked(pair[0]), asked(pair[1])) == (1, 16)


async def test_the_last_error_leaves_when_all_servers_fail_for_as_long_as_the_budget(
    pair: Pair, slots: SlotPool
) -> None:
    clock = RetryClock()
    async with reaching_all(slots, *pair, retrying=clock.retrying(budget_s=10)) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        pair[0].faults["ModelInfer"] = refuse(grpc.StatusCode.UNAVAILABLE)
        pair[1].faults["ModelInfer"] = refuse(grpc.StatusCode.DEADLINE_EXCEEDED)
        with pytest.raises(TritonUnavailableError):
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
    rounds = len(clock.pauses_s) + 1
    assert (asked(pair[0]), asked(pair[1])) == (rounds, rounds)


async def test_one_machines_fault_is_not_the_frames(pair: Pair, slots: SlotPool) -> None:
    async with reaching_all(slots, *pair) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        pair[0].faults["ModelInfer"] = refuse(grpc.StatusCode.INTERNAL, "the GPU fell off the bus")
        for slot in range(8):
            assert (await triton.model.infer(model, batch_in(slots, slot, noise(1)))).shape == (1, 300, 6)
        assert asked(pair[0]) == 1


async def test_what_two_servers_fail_is_believed_at_once(slots: SlotPool) -> None:
    with fake_kserve() as first, fake_kserve() as second, fake_kserve() as third:
        servers = (first, second, third)
        async with reaching_all(slots, *servers) as triton:
            model = await triton.catalogue.find(MEAN_COLOUR)
            for server in servers:
                server.faults["ModelInfer"] = refuse(grpc.StatusCode.INTERNAL, "no such kernel")
            with pytest.raises(InferenceError, match="mean_colour:1: no such kernel") as caught:
                await triton.model.infer(model, batch_in(slots, 0, noise(1)))
        assert type(caught.value) is InferenceError
        assert sum(asked(server) for server in servers) == 2


@pytest.mark.parametrize("status", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_request_that_is_wrong_is_wrong_everywhere(
    pair: Pair, slots: SlotPool, status: grpc.StatusCode
) -> None:
    async with reaching_all(slots, *pair) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        for server in pair:
            server.faults["ModelInfer"] = refuse(status)
        with pytest.raises(InferenceError):
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
    assert asked(pair[0]) + asked(pair[1]) == 1


# Models.


async def test_a_version_goes_only_where_it_is_served(slots: SlotPool) -> None:
    both = {MEAN_COLOUR: {1: mean_colour_card()}}
    one = {MEAN_COLOUR: {1: mean_colour_card(), 2: mean_colour_card("d" * 64)}}
    with fake_kserve(published=both, instances=2) as first, fake_kserve(published=one, instances=3) as second:
        async with reaching_all(slots, first, second) as triton:
            newest = await triton.catalogue.find(MEAN_COLOUR)
            older = await triton.catalogue.find(MEAN_COLOUR, 1)
            for slot in range(8):
                await triton.model.infer(newest, batch_in(slots, slot, noise(1)))
        assert (newest.version.version, newest.instances, older.instances) == (2, 3, 5)
        assert (asked(first), asked(second)) == (0, 8)


async def test_different_networks_under_one_version_are_never_mixed(pair: Pair, slots: SlotPool) -> None:
    async with reaching_all(slots, *pair) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        pair[1].published = OTHER
        await triton.catalogue.load(MEAN_COLOUR)
        with pytest.raises(ModelNotReadyError) as caught:
            await triton.catalogue.find(MEAN_COLOUR)
        assert all(server.url in str(caught.value) for server in pair)
        (status,) = await triton.catalogue.list()
        assert not status.is_ready
        before = asked(pair[1])
        for slot in range(8):
            await triton.model.infer(model, batch_in(slots, slot, noise(1)))
        assert asked(pair[1]) == before
        assert not (await triton.readiness()).is_ready


async def test_a_network_that_no_server_has_any_more_ends_the_run(pair: Pair, slots: SlotPool) -> None:
    async with reaching_all(slots, *pair) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        pair[0].published = pair[1].published = OTHER
        await triton.catalogue.load(MEAN_COLOUR)
        with pytest.raises(ModelChangedError):
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))


async def test_a_run_waits_for_the_server_that_may_still_have_its_network(pair: Pair, slots: SlotPool) -> None:
    clock = RetryClock()
    async with reaching_all(slots, *pair, retrying=clock.retrying(budget_s=1)) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        pair[1].published = OTHER
        await triton.catalogue.load(MEAN_COLOUR)
        await pair[0].go_away()
        with pytest.raises(TritonUnavailableError, match="is away, and elsewhere Triton serves another network"):
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
        # The version is not given to new runs either, which the other server would join when it is back.
        with pytest.raises(ModelNotReadyError):
            await triton.catalogue.find(MEAN_COLOUR)


async def test_a_model_that_a_server_that_is_away_may_have_is_not_missing(pair: Pair, slots: SlotPool) -> None:
    async with reaching_all(slots, *pair) as triton:
        with pytest.raises(ModelNotFoundError):
            await triton.catalogue.find("trucks")
        await pair[1].go_away()
        with pytest.raises(TritonUnavailableError, match=f"there is no model trucks; .*{pair[1].url} did not answer"):
            await triton.catalogue.find("trucks")
        assert (await triton.catalogue.find(MEAN_COLOUR)).version.version == 1


async def test_load_reaches_every_server_and_names_those_that_fail(pair: Pair, slots: SlotPool) -> None:
    async with reaching_all(slots, *pair) as triton:
        for server in pair:
            server.published["later"] = {1: mean_colour_card()}
        await triton.catalogue.load("later")
        assert (await triton.catalogue.find("later")).instances == 2
        pair[0].published["last"] = {1: mean_colour_card()}
        with pytest.raises(ModelNotReadyError, match=f"{pair[1].url}: there is no model last"):
            await triton.catalogue.load("last")
        assert (await triton.catalogue.find("last")).instances == 1
        with pytest.raises(ModelNotFoundError, match="there is no model never"):
            await triton.catalogue.load("never")
        await pair[1].go_away()
        with pytest.raises(TritonUnavailableError, match=pair[1].url):
            await triton.catalogue.load("later")


async def test_finding_a_model_does_not_wait_for_a_server_that_hangs(pair: Pair, slots: SlotPool) -> None:
    async with reaching_all(slots, *pair, timeout_s=0.2) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        pair[0].faults = {method: say_nothing for method in ("ModelInfer", "RepositoryIndex")}
        while not asked(pair[0]):
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))
        before = pair[0].calls["RepositoryIndex"]
        for _ in range(20):
            assert (await triton.catalogue.find(MEAN_COLOUR)).version == model.version
        assert pair[0].calls["RepositoryIndex"] == before


# How frames travel.


async def test_each_server_has_a_transport_of_its_own(slots: SlotPool) -> None:
    with fake_kserve() as near, fake_kserve(allows_shared_memory=False) as far:
        async with reaching_all(slots, near, far) as triton:
            model = await triton.catalogue.find(MEAN_COLOUR)
            answers = []
            while not (asked(near) and asked(far)):
                answers.append(await triton.model.infer(model, batch_in(slots, 0, noise(4))))
            readiness = await triton.readiness()
        assert all(np.array_equal(answer, answers[0]) for answer in answers)
        assert (readiness.is_ready, readiness.transport) == (True, "mixed")
        assert [each.transport for each in readiness.endpoints] == ["shm", "grpc"]
        assert readiness.transport_reason.startswith(f"{far.url}: Triton refused shared memory")
        assert readiness.grpc_url == f"{near.url},{far.url}"


async def test_a_server_without_shared_memory_is_passed_over_where_it_is_insisted_on(slots: SlotPool) -> None:
    with fake_kserve() as near, fake_kserve(allows_shared_memory=False) as far:
        async with reaching_all(slots, near, far, transport="shm") as triton:
            model = await triton.catalogue.find(MEAN_COLOUR)
            for slot in range(8):
                await triton.model.infer(model, batch_in(slots, slot, noise(1)))
            readiness = await triton.readiness()
        assert (asked(near), asked(far)) == (8, 0)
        assert [each.is_ready for each in readiness.endpoints] == [True, False]


async def test_timeouts_move_on_to_the_other_server(pair: Pair, slots: SlotPool) -> None:
    async with reaching_all(slots, *pair, timeout_s=0.2, retrying=Retrying(budget_s=0.35, sleep=no_pause)) as triton:
        model = await triton.catalogue.find(MEAN_COLOUR)
        for server in pair:
            server.faults["ModelInfer"] = say_nothing
        with pytest.raises(TritonTimeoutError):
            async with asyncio.timeout(5):
                await triton.model.infer(model, batch_in(slots, 0, noise(1)))
        assert (asked(pair[0]), asked(pair[1])) == (1, 1)


@pytest.mark.needs("triton")
async def test_a_real_triton_and_another_server_share_the_work(embedded_triton: RunningTriton, slots: SlotPool) -> None:
    with fake_kserve() as fake:
        settings = replace(embedded_triton.settings, urls=(embedded_triton.grpc_url, fake.url))
        async with reaching(settings, slots) as triton:
            await until_all_answer(triton)
            model = await triton.catalogue.find(MEAN_COLOUR)
            batches = [batch_in(slots, slot, noise(4)) for slot in range(8)]
            answers = await asyncio.gather(*(triton.model.infer(model, batch) for batch in batches))
            await fake.go_away()
            again = await asyncio.gather(*(triton.model.infer(model, batch) for batch in batches))
            readiness = await triton.readiness()
        assert 0 < asked(fake) < 8
        for before, after in zip(answers, again, strict=True):
            assert np.allclose(before, after)
        assert (model.instances, readiness.is_ready, readiness.transport) == (2, True, "shm")


async def test_one_server_by_two_addresses_shares_one_region(slots: SlotPool) -> None:
    with fake_kserve() as fake:
        settings = triton_settings(Path("unused"), TRITON_URL=f"{fake.url},localhost:{fake.port}")
        async with reaching(settings, slots, transport="shm") as triton:
            await until_all_answer(triton)
            assert [each.is_ready for each in (await triton.readiness()).endpoints] == [True, True]
            assert len(fake.regions) == 1
        assert not fake.regions
