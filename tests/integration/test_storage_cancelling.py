from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.settings import StorageSettings
from orchestrator.storage.stores import open_stores
from tests.contract.scenario import LEASE, START, Scenario


async def test_cancelled_writers_hold_nobody_up_wherever_they_are_cancelled(tmp_path: Path) -> None:
    settings = StorageSettings(
        database_url=f"sqlite:///{tmp_path}/trireel.db", data_dir=tmp_path, max_upload_bytes=1000
    )
    async with open_stores(settings) as stores:
        scenario = Scenario(stores)
        await scenario.start(segments=50)
        for moments in range(60):
            lease = stores.runs.lease_next(after=None, now=START, until=START + LEASE)
            writer = asyncio.create_task(lease)
            for _ in range(moments):
                await asyncio.sleep(0)
            writer.cancel()
            # SQLite's own wait for a lock would take 10 s.
            async with asyncio.timeout(5):
                await asyncio.gather(writer, return_exceptions=True)
                await stores.runs.free_leases()
