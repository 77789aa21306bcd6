"""The parts that each suite runs against. A new one, such as Redis, is a new opener in its table."""

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
from tests.support.postgres import PostgresServer, postgres, postgres_of_session

__all__ = ["postgres", "postgres_of_session"]

MAX_UPLOAD_BYTES: Final = 1000

OpenStores = Callable[[Path], AbstractAsyncContextManager[Stores]]


@asynccontextmanager
async def open_memory(folder: Path) -> AsyncIterator[Stores]:
    yield memory_stores(max_upload_bytes=MAX_UPLOAD_BYTES)


@asynccontextmanager
async def open_sqlite(folder: Path) -> AsyncIterator[Stores]:
    async with open_stores(settings_of(f"sqlite:///{folder}/trireel.db", folder)) as stores:
        yield stores


def settings_of(database_url: str, folder: Path) -> StorageSettings:
    return StorageSettings(database_url=database_url, data_dir=folder, max_upload_bytes=MAX_UPLOAD_BYTES)


def postgresql_opener(server: PostgresServer) -> OpenStores:
    @asynccontextmanager
    async def open_postgresql(folder: Path) -> AsyncIterator[Stores]:
        async with open_stores(settings_of(server.url(), folder)) as stores:
            yield stores

    return open_postgresql


OPENERS: Final[dict[str, OpenStores]] = {"memory": open_memory, "sqlite": open_sqlite}


@pytest.fixture(params=[*OPENERS, pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))])
def opener(request: pytest.FixtureRequest) -> OpenStores:
    if request.param in OPENERS:
        return OPENERS[request.param]
    return postgresql_opener(request.getfixturevalue("postgres"))


@pytest.fixture
async def stores(opener: OpenStores, tmp_path: Path) -> AsyncIterator[Stores]:
    async with opener(tmp_path) as opened:
        yield opened


@pytest.fixture
def scenario(stores: Stores) -> Scenario:
    return Scenario(stores)
