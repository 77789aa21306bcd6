"""What the scenarios share: a Triton and a server that nothing is done to, and the seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.faults.cluster import Surroundings, open_cluster
from tests.faults.memory_calls import MemoryCalls
from tests.faults.seeds import SEED, SEEDS, first_seed, seed_count, sweep_step
from tests.faults.served_models import write_repository
from tests.faults.topology import PLAIN, Topology
from tests.faults.trial import Trial, open_trial
from tests.faults.works import USUAL, QuietServer
from tests.support.faulty_triton import FaultyTriton, faulty_triton
from tests.support.postgres import PostgresServer, postgres, postgres_of_session
from tests.support.private_mounts import PrivateMounts
from tests.support.redis import RedisServer, redis, redis_of_session
from tests.support.triton_program import TritonProgram, triton_program

__all__ = ["postgres", "postgres_of_session", "redis", "redis_of_session"]

FIRST_SEED: Final = first_seed(os.environ)
SEED_COUNT: Final = seed_count(os.environ)

OpenTrial = Callable[..., AbstractContextManager[Trial]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A scenario whose moments are random says `kill_seed` and runs once for each seed."""
    if "kill_seed" in metafunc.fixturenames:
        metafunc.parametrize("kill_seed", [FIRST_SEED + number for number in range(SEED_COUNT)])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(
        f"faults: make faults SEED={FIRST_SEED} SEEDS={SEED_COUNT} strikes at these moments again ({SEED}, {SEEDS})"
    )


@pytest.fixture
def seed() -> int:
    """Of scenarios that run once."""
    return FIRST_SEED


@pytest.fixture
def sweep() -> Callable[[], Iterator[int]]:
    """The n of a sweep over n-th calls, without an end."""
    step = sweep_step(os.environ)
    return lambda: count(1 + FIRST_SEED % step, step)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("models") / "repository")


@pytest.fixture(scope="session")
def shared_triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProgram]:
    """For scenarios that do not hurt it."""
    with triton_program(repository, tmp_path_factory.mktemp("triton")) as triton:
        yield triton


@pytest.fixture
def own_triton(repository: Path, tmp_path: Path) -> Iterator[TritonProgram]:
    """To be killed, paused and replaced."""
    with triton_program(repository, tmp_path / "triton") as triton:
        yield triton


@pytest.fixture
def faulty(shared_triton: TritonProgram) -> Iterator[FaultyTriton]:
    """The shared Triton, behind a proxy that spoils calls."""
    with faulty_triton(shared_triton.grpc_url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def quiet(
    shared_triton: TritonProgram, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QuietServer]:
    around = Surroundings(triton=shared_triton)
    folder = tmp_path_factory.mktemp("quiet")
    with open_cluster(PLAIN, folder, model_repository=repository, around=around) as cluster:
        quiet = QuietServer(cluster.url)
        for work in USUAL:
            quiet.undisturbed(work)
        yield quiet


@pytest.fixture
def trial_on(
    quiet: QuietServer, repository: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[..., AbstractContextManager[Trial]]:
    """Opens a trial on a fresh cluster. triton: else the shared one. triton_url, redis_url: of a proxy in front."""

    @contextmanager
    def open_on(
        topology: Topology,
        seed: int,
        *,
        triton: TritonProgram | None = None,
        triton_url: str | None = None,
        redis_url: str | None = None,
        mounts: PrivateMounts | None = None,
        memory_calls: MemoryCalls | None = None,
        clocks: Mapping[str, int] | None = None,
        **settings: str,
    ) -> Iterator[Trial]:
        shared = None if topology.has_own_triton else request.getfixturevalue("shared_triton")
        postgres: PostgresServer | None = request.getfixturevalue("postgres") if topology.has_postgresql else None
        redis: RedisServer | None = request.getfixturevalue("redis") if topology.has_redis else None
        around = Surroundings(
            triton=triton or shared,
            triton_url=triton_url,
            postgres=postgres,
            redis=redis,
            redis_url=redis_url,
            mounts=mounts,
            memory_calls=memory_calls,
            clocks=clocks or {},
        )
        folder = tmp_path / topology.name
        with (
            open_cluster(topology, folder, model_repository=repository, around=around, **settings) as cluster,
            open_trial(cluster, quiet, seed) as trial,
        ):
            yield trial

    return open_on
