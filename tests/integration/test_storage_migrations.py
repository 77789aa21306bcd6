"""A database of an earlier release is brought up to date with jobs in flight, and they go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.states import JobState
from orchestrator.settings import StorageSettings
from orchestrator.storage.stores import open_stores
from tests.contract.scenario import FAILURE, Scenario
from tests.support.earlier_database import copy_sqlite_rows, make_tables

EARLIER = ("0001", "0002", "0003", "0004", "0005", "0006")
SEGMENTS = 3


def settings_of(folder: Path, name: str) -> StorageSettings:
    return StorageSettings(database_url=f"sqlite:///{folder}/{name}.db", data_dir=folder, max_upload_bytes=1000)


@pytest.mark.parametrize("revision", EARLIER)
async def test_jobs_in_flight_survive_a_migration(tmp_path: Path, revision: str) -> None:
    async with open_stores(settings_of(tmp_path, "new")) as stores:
        scenario = Scenario(stores)
        running = await scenario.start(segments=SEGMENTS)
        await scenario.commit(await scenario.lease_one())
        await scenario.lease_one()
        failed = await scenario.start(segments=SEGMENTS, content="b")
        await stores.runs.fail(failed.run_id, FAILURE, now=scenario.now)
        queued = await scenario.submit(await stores.videos.get(running.video_id), every_nth=2)
        before = [await stores.jobs.get(job.id) for job in (running, failed, queued)]
        last_id = await stores.events.last_id()
    make_tables(f"sqlite:///{tmp_path}/old.db", revision)
    copy_sqlite_rows(tmp_path / "new.db", tmp_path / "old.db")
    async with open_stores(settings_of(tmp_path, "old")) as stores:
        scenario = Scenario(stores, now=scenario.now)
        assert [await stores.jobs.get(job.id) for job in (running, failed, queued)] == before
        assert await stores.runs.free_leases() == 1
        assert [job.id for job in await scenario.admit()] == [queued.id]
        [ended] = await scenario.finish(running)
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
        assert (await stores.runs.get(running.run_id)).segments_done == SEGMENTS
        assert (await stores.jobs.retry(failed.id, now=scenario.now))[0].attempt == 2
        _, is_known = await scenario.submit_once(await stores.videos.get(queued.video_id), "k")
        assert not is_known
        assert await stores.events.last_id() > last_id
