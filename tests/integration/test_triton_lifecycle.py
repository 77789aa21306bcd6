"""A Triton that starts, breaks, comes back and goes; each test has a server of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.errors import (
    BatchBreaksTritonError,
    ModelChangedError,
    ModelNotReadyError,
    TritonStartError,
    TritonUnavailableError,
)
from orchestrator.inference.embedded import PATIENCE, EmbeddedTriton, Patience, open_embedded_triton
from orchestrator.inference.triton import Triton, open_triton
from orchestrator.telemetry import Metrics
from orchestrator.video.slots import SlotPool
from tests.support.needs import ROOT
from tests.support.triton import (
    DYING,
    MEAN_COLOUR,
    batch_in,
    mean_colour_card,
    noise,
    triton_settings,
    write_mean_colour,
)

pytestmark = pytest.mark.needs("triton")

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_mean_colour(tmp_path / "repository")
    return tmp_path / "repository"


@asynccontextmanager
async def own_triton(
    repository: Path,
    slots: SlotPool,
    metrics: Metrics | None = None,
    *,
    patience: Patience = PATIENCE,
    **variables: str,
) -> AsyncIterator[Triton]:
    settings = triton_settings(repository, **variables)
    log_dir = repository.parent / "log"
    metrics = metrics or Metrics(CollectorRegistry())
    async with open_triton(settings, slots, metrics=metrics, log_dir=log_dir, patience=patience) as triton:
        yield triton


def server_of(triton: Triton) -> EmbeddedTriton:
    assert triton.embedded is not None
    return triton.embedded


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def children_of(pid: int | None) -> list[int]:
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for child in " ".join(lists).split()]


def regions(prefix: str) -> list[str]:
    return [path.name for path in SHARED_MEMORY.glob(f"{prefix}*")]


async def end_of(process: int) -> None:
    """Return when the process behind a pidfd has ended."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process, over.set)
    await over.wait()
    loop.remove_reader(process)
    os.close(process)


async def test_the_api_has_an_answer_while_triton_starts(repository: Path, slots: SlotPool) -> None:
    async with own_triton(repository, slots) as triton:
        starting = await triton.readiness()
        assert not starting.is_ready
        assert "the embedded Triton is starting" in starting.reasons[0]
        with pytest.raises(TritonUnavailableError):
            await triton.catalogue.find(MEAN_COLOUR)
        await triton.wait_connected()
        ready = await triton.readiness()
        assert (ready.is_ready, ready.reasons, ready.last_error) == (True, (), None)
        assert regions(server_of(triton).region_prefix)
    assert not regions(server_of(triton).region_prefix)


async def test_a_killed_triton_costs_time_and_no_frame(repository: Path, slots: SlotPool) -> None:
    metrics = Metrics(CollectorRegistry())
    frames = noise(4)
    async with own_triton(repository, slots, metrics) as triton:
        await triton.wait_connected()
        model = await triton.catalogue.find(MEAN_COLOUR)
        await triton.model.infer(model, batch_in(slots, 0, frames))
        server = server_of(triton)
        pid, url, left_over = server.pid, server.grpc_url, regions(server.region_prefix)
        kill(pid)
        candidates = await triton.model.infer(model, batch_in(slots, 1, frames))
        readiness = await triton.readiness()
        assert server.pid not in (None, pid)
        assert server.grpc_url == url
        assert not set(left_over) & set(regions(server.region_prefix))
    assert candidates[:, 0, 4] == pytest.approx(frames[..., 0].mean(axis=(1, 2)) / 255)
    # The region was registered with the new server as well.
    assert readiness.transport == "shm"
    assert "SIGKILL" in (readiness.last_error or "")
    sample = metrics.registry.get_sample_value
    assert sample("trireel_triton_restarts_total") == 1
    assert (sample("trireel_inference_retries_total", {"reason": "triton_unavailable"}) or 0) > 0
    assert sample("trireel_frames_inferred_total", {"model": MEAN_COLOUR}) == 8


async def test_a_triton_that_hangs_is_killed_and_started_again(repository: Path, slots: SlotPool) -> None:
    metrics = Metrics(CollectorRegistry())
    frames = noise(4)
    async with own_triton(repository, slots, metrics, patience=Patience(hung_s=1), TRITON_TIMEOUT_S="0.5") as triton:
        await triton.wait_connected()
        model = await triton.catalogue.find(MEAN_COLOUR)
        await triton.model.infer(model, batch_in(slots, 0, frames))
        server = server_of(triton)
        pid = server.pid
        assert pid is not None
        stopped = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSTOP)
        candidates = await triton.model.infer(model, batch_in(slots, 1, frames))
        await end_of(stopped)
        assert server.pid not in (None, pid)
    assert candidates[:, 0, 4] == pytest.approx(frames[..., 0].mean(axis=(1, 2)) / 255)
    assert server.last_error == "it answered nothing any more"
    sample = metrics.registry.get_sample_value
    assert sample("trireel_triton_restarts_total") == 1
    assert (sample("trireel_inference_retries_total", {"reason": "triton_timeout"}) or 0) > 0


async def test_a_model_that_lost_its_process_is_served_again(repository: Path, slots: SlotPool) -> None:
    async with own_triton(repository, slots) as triton:
        await triton.wait_connected()
        model = await triton.catalogue.find(MEAN_COLOUR)
        for stub in children_of(server_of(triton).pid):
            kill(stub)
        candidates = await triton.model.infer(model, batch_in(slots, 0, noise(2)))
    assert candidates.shape == (2, 300, 6)
    assert server_of(triton).last_error == "a process of a model died"


async def test_a_batch_that_kills_its_model_each_time_is_given_up_and_no_other(
    repository: Path, slots: SlotPool
) -> None:
    metrics = Metrics(CollectorRegistry())
    poison = noise(2)
    poison[0, 0, 0] = DYING
    async with own_triton(repository, slots, metrics) as triton:
        await triton.wait_connected()
        model = await triton.catalogue.find(MEAN_COLOUR)
        innocents = [
            asyncio.ensure_future(triton.model.infer(model, batch_in(slots, slot, noise(slot)))) for slot in range(1, 5)
        ]
        with pytest.raises(BatchBreaksTritonError, match="3 times in a row under frames 0 to 1"):
            await triton.model.infer(model, batch_in(slots, 0, poison))
        for count, innocent in enumerate(innocents, 1):
            assert (await innocent).shape == (count, 300, 6)
        assert (await triton.model.infer(model, batch_in(slots, 0, noise(4)))).shape == (4, 300, 6)
    assert metrics.registry.get_sample_value("trireel_triton_restarts_total") == 3


async def test_a_network_exchanged_during_a_restart_is_found_out(repository: Path, slots: SlotPool) -> None:
    async with own_triton(repository, slots) as triton:
        await triton.wait_connected()
        model = await triton.catalogue.find(MEAN_COLOUR)
        write_mean_colour(repository, cards={1: mean_colour_card("c" * 64)})
        kill(server_of(triton).pid)
        with pytest.raises(ModelChangedError):
            await triton.model.infer(model, batch_in(slots, 0, noise(1)))


async def test_versions_published_later_are_served_after_load(repository: Path, slots: SlotPool) -> None:
    async with own_triton(repository, slots) as triton:
        await triton.wait_connected()
        write_mean_colour(repository, cards={1: mean_colour_card(), 2: mean_colour_card("d" * 64)})
        write_mean_colour(repository, name="later")
        await triton.catalogue.load(MEAN_COLOUR)
        await triton.catalogue.load("later")
        newest = await triton.catalogue.find(MEAN_COLOUR)
        assert (newest.version.version, newest.version.digest) == (2, "d" * 64)
        assert (await triton.catalogue.find(MEAN_COLOUR, 1)).version.digest == "a" * 64
        assert (await triton.model.infer(newest, batch_in(slots, 0, noise(1)))).shape == (1, 300, 6)
        assert (await triton.catalogue.find("later")).version.version == 1


async def test_broken_models_do_not_take_the_others_down(repository: Path, slots: SlotPool) -> None:
    write_mean_colour(repository, name="undescribed", cards={})
    write_mean_colour(repository, name="unrunnable")
    (repository / "unrunnable" / "1" / "model.py").write_text("import no_such_module\n")
    write_mean_colour(repository, name="unreadable")
    (repository / "unreadable" / "config.pbtxt").write_text("{")
    async with own_triton(repository, slots) as triton:
        await triton.wait_connected()
        model = await triton.catalogue.find(MEAN_COLOUR)
        assert (await triton.model.infer(model, batch_in(slots, 0, noise(1)))).shape == (1, 300, 6)
        with pytest.raises(ModelNotReadyError, match=r"unrunnable:1 is not ready: .*no_such_module"):
            await triton.catalogue.find("unrunnable")
        with pytest.raises(ModelNotReadyError, match="failed to load 'unreadable'"):
            await triton.catalogue.load("unreadable")
        readiness = await triton.readiness()
    assert readiness.is_ready
    described = "\n".join(readiness.reasons)
    assert "undescribed:1: its configuration has no parameter trireel.1" in described
    assert "unrunnable:1" in described
    assert "unreadable:0" in described


async def test_a_triton_that_is_away_leaves_reasons(slots: SlotPool, tmp_path: Path) -> None:
    settings = triton_settings(tmp_path, TRITON_URL="127.0.0.1:9")
    async with open_triton(settings, slots, metrics=Metrics(CollectorRegistry()), log_dir=tmp_path) as triton:
        readiness = await triton.readiness()
        with pytest.raises(TritonUnavailableError, match="listing models"):
            await triton.catalogue.find(MEAN_COLOUR)
    assert not readiness.is_ready
    assert readiness.grpc_url == "127.0.0.1:9"
    assert readiness.metrics_url is None
    assert "Triton does not answer" in readiness.reasons[0]


async def test_a_start_that_takes_too_long_fails_and_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    settings = triton_settings(repository)
    metrics = Metrics(CollectorRegistry())
    before = children_of(os.getpid())
    with pytest.raises(TritonStartError, match="not ready within 0 s"):
        async with open_embedded_triton(settings, log_dir=tmp_path, metrics=metrics, patience=Patience(start_s=0.05)):
            pass
    assert children_of(os.getpid()) == before


async def test_a_missing_repository_is_refused_at_once(tmp_path: Path) -> None:
    settings = triton_settings(tmp_path / "absent")
    with pytest.raises(TritonStartError, match="is no folder; set TRIREEL_MODEL_REPOSITORY"):
        async with open_embedded_triton(settings, log_dir=tmp_path, metrics=Metrics(CollectorRegistry())):
            pass


PARENT = """
import asyncio, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from orchestrator.core.types import ModelVersion
from orchestrator.inference.connection import open_connection
from orchestrator.inference.embedded import open_embedded_triton
from orchestrator.inference.wire import build_request
from orchestrator.telemetry import Metrics, configure_logging
from tests.support.triton import MEAN_COLOUR, SLOW, batch_of, noise, triton_settings

async def main():
    repository = Path(sys.argv[1])
    frames = noise(1)
    frames[0, 0, 0] = SLOW
    request = build_request(ModelVersion(MEAN_COLOUR, 1, ""), batch_of(0, frames), region=None, offset=0)
    metrics = Metrics(CollectorRegistry())
    async with (
        open_embedded_triton(triton_settings(repository), log_dir=repository.parent, metrics=metrics) as triton,
        open_connection(triton.grpc_url) as connection,
        asyncio.TaskGroup() as group,
    ):
        await connection.wait_connected()
        calls = [group.create_task(connection.infer(lambda: request, timeout_s=60)) for _ in range(8)]
        await calls[0]
        print(triton.pid, triton.region_prefix, flush=True)

configure_logging("text", "info")
asyncio.run(main())
"""


async def test_a_busy_triton_ends_with_its_parent_and_leaves_nothing(repository: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(repository), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    try:
        pid, region_prefix = (await parent.stdout.readline()).decode().split()
        guardian = children_of(parent.pid)
        stubs = children_of(int(pid))
        family = [os.pidfd_open(process) for process in (*guardian, int(pid), *stubs)]
    finally:
        parent.kill()
        await parent.wait()
    assert len(family) == 3
    for process in family:
        await end_of(process)
    assert not regions(region_prefix)
