"""The database's transactions, on SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, insert, select, text

from orchestrator.errors import DiskFullError, SettingsError, StorageError
from orchestrator.settings import StorageSettings
from orchestrator.storage.engine import Database, open_database
from orchestrator.storage.failures import file_errors
from orchestrator.storage.schema import upgrade_schema
from orchestrator.storage.tables import metadata, models


def settings_of(folder: Path, url: str | None = None) -> StorageSettings:
    return StorageSettings(
        database_url=url or f"sqlite+aiosqlite:///{folder}/trireel.db", data_dir=folder, max_upload_bytes=1
    )


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(settings_of(tmp_path)) as opened:
        yield opened


async def add_model(database: Database, digest: str) -> None:
    async with database.write() as connection:
        await connection.execute(insert(models).values(digest=digest, card="{}"))


async def count_models(database: Database) -> int:
    async with database.read() as connection:
        return (await connection.execute(select(func.count()).select_from(models))).scalar_one()


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 10_000)],
)
async def test_a_commit_survives_a_power_cut_and_rows_refer_to_rows(
    database: Database, pragma: str, expected: object
) -> None:
    async with database.read() as connection:
        assert (await connection.execute(text(f"PRAGMA {pragma}"))).scalar() == expected


async def test_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    def difference(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with database.read() as connection:
        assert await connection.run_sync(difference) == []


async def test_a_database_is_opened_again_with_its_rows(tmp_path: Path) -> None:
    for count in (0, 1):
        async with open_database(settings_of(tmp_path)) as database:
            assert await count_models(database) == count
            await add_model(database, str(count))


async def test_migrations_that_are_cut_off_leave_the_database_as_it_was(tmp_path: Path) -> None:
    async with open_database(settings_of(tmp_path)) as database:
        await add_model(database, "kept")

        async def cut_off() -> None:
            async with database.write() as connection:
                for table in ("parts", "segments", "events", "jobs", "runs", "models", "videos", "alembic_version"):
                    await connection.execute(text(f"DROP TABLE {table}"))
                await connection.run_sync(upgrade_schema)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await cut_off()
        assert await count_models(database) == 1


async def test_a_database_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    async with open_database(settings_of(tmp_path)) as database:
        await add_model(database, "kept")
        async with database.write() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="9999"):
        async with open_database(settings_of(tmp_path)):
            pass


async def test_what_an_exception_leaves_is_rolled_back(database: Database) -> None:
    async def fail_half_way() -> None:
        async with database.write() as connection:
            await connection.execute(insert(models).values(digest="a", card="{}"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail_half_way()
    assert await count_models(database) == 0


async def test_a_cancelled_writer_leaves_nothing_and_lets_the_next_one_write(database: Database) -> None:
    wrote = asyncio.Event()

    async def write_and_wait() -> None:
        async with database.write() as connection:
            await connection.execute(insert(models).values(digest="a", card="{}"))
            wrote.set()
            await asyncio.Event().wait()

    writer = asyncio.ensure_future(write_and_wait())
    await wrote.wait()
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await add_model(database, "b")
    assert await count_models(database) == 1


@pytest.mark.parametrize("turns", [*range(0, 40, 3), 60, 100])
async def test_a_writer_may_be_cancelled_at_any_moment(database: Database, turns: int) -> None:
    await add_model(database, "before")
    writer = asyncio.ensure_future(add_model(database, "cancelled"))
    for _ in range(turns):
        await asyncio.sleep(0)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await add_model(database, "after")
    # Cut off in the middle of its commit, a transaction may have happened or not; never half.
    assert await count_models(database) in (2, 3)


async def test_a_reader_keeps_its_snapshot_and_does_not_stop_writers(database: Database) -> None:
    async with database.read() as connection:
        count = select(func.count()).select_from(models)
        assert (await connection.execute(count)).scalar_one() == 0
        await add_model(database, "a")
        assert (await connection.execute(count)).scalar_one() == 0
    assert await count_models(database) == 1


async def test_writers_that_read_first_never_fail_on_each_other(tmp_path: Path) -> None:
    # Two pools stand for two processes. With deferred transactions most of these fail at once as "locked".
    async with open_database(settings_of(tmp_path)) as one, open_database(settings_of(tmp_path)) as other:

        async def read_then_write(database: Database, digest: str) -> None:
            async with database.write() as connection:
                await connection.execute(select(func.count()).select_from(models))
                await connection.execute(insert(models).values(digest=digest, card="{}"))

        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(read_then_write(one, f"one {number}"))
                group.create_task(read_then_write(other, f"other {number}"))
        assert await count_models(one) == 100


async def test_a_full_disk_is_told_as_such_and_leaves_the_database_usable(database: Database) -> None:
    async def fill() -> None:
        async with database.write() as connection:
            await connection.execute(text("PRAGMA max_page_count = 1"))
            for number in range(10_000):
                await connection.execute(insert(models).values(digest=str(number), card="x" * 4000))

    with pytest.raises(DiskFullError):
        await fill()
    async with database.write() as connection:
        await connection.execute(text("PRAGMA max_page_count = 1000000"))
    await add_model(database, "a")
    assert await count_models(database) == 1


async def test_a_broken_constraint_is_a_storage_error(database: Database) -> None:
    await add_model(database, "a")
    with pytest.raises(StorageError):
        await add_model(database, "a")


async def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "trireel.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError):
        async with open_database(settings_of(tmp_path)):
            pass


async def test_a_database_in_a_folder_that_is_missing_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        async with open_database(settings_of(tmp_path / "missing")):
            pass


@pytest.mark.parametrize(
    "url", ["mysql+aiomysql://localhost/x", "no url", "nosuch://x", "sqlite:///x.db", "sqlite+aiosqlite://"]
)
async def test_other_databases_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError):
        async with open_database(settings_of(tmp_path, url)):
            pass


def test_the_write_ahead_log_is_folded_in_at_the_end(tmp_path: Path) -> None:
    async def open_and_write() -> None:
        async with open_database(settings_of(tmp_path)) as database:
            await add_model(database, "a")

    asyncio.run(open_and_write())
    with closing(sqlite3.connect(tmp_path / "trireel.db")) as connection:
        assert connection.execute("SELECT count(*) FROM models").fetchone() == (1,)


def test_a_full_disk_under_a_file_is_told_as_such() -> None:
    with pytest.raises(DiskFullError), file_errors(), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")


def test_any_other_error_of_a_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"), file_errors():
        (tmp_path / "missing").read_bytes()
