"""A database of an earlier release is brought up to date with jobs in flight, and they go on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from orchestrator.core.states import JobState
from orchestrator.settings import StorageSettings
from orchestrator.storage.schema import MIGRATIONS
from orchestrator.storage.stores import open_stores
from tests.contract.scenario import FAILURE, Scenario

EARLIER = ("0001", "0002", "0003", "0004", "0005", "0006")
SEGMENTS = 3


def settings_of(folder: Path, name: str) -> StorageSettings:
    return StorageSettings(database_url=f"sqlite:///{folder}/{name}.db", data_dir=folder, max_upload_bytes=1000)


def make_tables(path: Path, revision: str) -> None:
    """An empty database as the release with `revision` made it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def copy_rows(source: Path, target: Path) -> None:
    """Into the tables and columns that the target has."""
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.execute("ATTACH ? AS source", (str(source),))
        tables = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        for (table,) in connection.execute(tables).fetchall():
            if table != "alembic_version":
                names = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
                columns = ", ".join(f'"{name}"' for name in names)
                connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM source.{table}")


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
    make_tables(tmp_path / "old.db", revision)
    copy_rows(tmp_path / "new.db", tmp_path / "old.db")
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
