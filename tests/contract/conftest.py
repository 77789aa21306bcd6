"""The parts that each suite runs against. A new one, such as PostgreSQL or Redis, is a new opener in its table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from orchestrator.settings import StorageSettings
from orchestrator.storage.stores import open_stores
from orchestrator.testing.memory_files import MemoryArchive, MemoryVideoFiles
from orchestrator.testing.memory_jobs import MemoryEventStore, MemoryJobStore, MemoryVideoStore
from orchestrator.testing.memory_runs import MemoryPartStore, MemoryRunStore
from orchestrator.testing.world import World
from tests.contract.scenario import Scenario, StoresUnderTest

MAX_UPLOAD_BYTES: Final = 1000

OpenStores = Callable[[Path], AbstractAsyncContextManager[StoresUnderTest]]


@asynccontextmanager
async def open_memory(folder: Path) -> AsyncIterator[StoresUnderTest]:
    world = World()
    yield StoresUnderTest(
        videos=MemoryVideoStore(world),
        jobs=MemoryJobStore(world),
        runs=MemoryRunStore(world),
        parts=MemoryPartStore(world),
        events=MemoryEventStore(world),
        archive=MemoryArchive(),
        files=MemoryVideoFiles(world, max_bytes=MAX_UPLOAD_BYTES),
    )


@asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[StoresUnderTest]:
    settings = StorageSettings(
        database_url=f"sqlite+aiosqlite:///{folder}/trireel.db", data_dir=folder, max_upload_bytes=MAX_UPLOAD_BYTES
    )
    async with open_stores(settings) as stores:
        yield StoresUnderTest(
            videos=stores.videos,
            jobs=stores.jobs,
            runs=stores.runs,
            parts=stores.parts,
            events=stores.events,
            archive=stores.archive,
            files=stores.files,
        )


OPENERS: Final[dict[str, OpenStores]] = {"memory": open_memory, "sqlite": open_sqlite}


@pytest.fixture(params=OPENERS)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoresUnderTest]:
    async with OPENERS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def scenario(stores: StoresUnderTest) -> Scenario:
    return Scenario(stores)
