"""The parts that each suite runs against. A new one, such as PostgreSQL or Redis, is a new opener in its table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from orchestrator.ports import Stores
from orchestrator.settings import StorageSettings
from orchestrator.storage.stores import open_stores
from orchestrator.testing.memory_stores import memory_stores
from tests.contract.scenario import Scenario

MAX_UPLOAD_BYTES: Final = 1000

OpenStores = Callable[[Path], AbstractAsyncContextManager[Stores]]


@asynccontextmanager
async def open_memory(folder: Path) -> AsyncIterator[Stores]:
    yield memory_stores(max_upload_bytes=MAX_UPLOAD_BYTES)


@asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[Stores]:
    settings = StorageSettings(
        database_url=f"sqlite:///{folder}/trireel.db", data_dir=folder, max_upload_bytes=MAX_UPLOAD_BYTES
    )
    async with open_stores(settings) as stores:
        yield stores


OPENERS: Final[dict[str, OpenStores]] = {"memory": open_memory, "sqlite": open_sqlite}


@pytest.fixture(params=OPENERS)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    async with OPENERS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def scenario(stores: Stores) -> Scenario:
    return Scenario(stores)
