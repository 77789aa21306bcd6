"""A suite's server: the fake one and the real one, so that the fake may stand for the real one elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2

from orchestrator.inference.connection import TritonConnection, open_connection
from orchestrator.settings import TritonSettings
from tests.support.fake_kserve import fake_kserve
from tests.support.triton import triton_settings


@dataclass(frozen=True, slots=True)
class EitherTriton:
    """A server of `mean_colour`, and settings that point at it."""

    url: str
    settings: TritonSettings


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.needs("triton"))])
def either_triton(request: pytest.FixtureRequest) -> Iterator[EitherTriton]:
    if request.param == "real":
        real = request.getfixturevalue("embedded_triton")
        yield EitherTriton(real.grpc_url, real.settings)
        return
    with fake_kserve() as fake:
        yield EitherTriton(fake.url, triton_settings(Path("unused"), TRITON_URL=fake.url))


@asynccontextmanager
async def stranger_at(url: str) -> AsyncIterator[TritonConnection]:
    """Another client of the server."""
    async with open_connection(url) as connection:
        await connection.wait_connected()
        yield connection


async def registered_keys(connection: TritonConnection) -> set[str]:
    """Keys of the shared memory that the server has mapped."""
    status = await connection.call("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest, timeout_s=5)
    return {region.key for region in status.regions.values()}
