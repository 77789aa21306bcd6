"""The database's transactions, on SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, insert, select, text

from orchestrator.errors import DiskFullError, SettingsError, StorageError
from orchestrator.settings import StorageSettings
from orchestrator.storage.engine import Database, open_database
from orchestrator.storage.failures import file_errors
from orchestrator.storage.schema import upgrade_schema
from orchestrator.storage.tables import metadata, models, parts

# For what ends at once unless it hangs.
WAIT_S = 20
COUNT_MODELS = select(func.count()).select_from(models)


def settings_of(folder: Path, url: str | None = None) -> StorageSettings:
    return StorageSettings(database_url=url or f"sqlite:///{folder}/trireel.db", data_dir=folder, max_upload_bytes=1)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(settings_of(tmp_path)) as opened:
        yield opened


async def add_model(database: Database, digest: str) -> None:
    await database.write(lambda connection: insert_model(connection, digest))


def insert_model(connection: Connection, digest: str) -> None:
    connection.execute(insert(models).values(digest=digest, card="{}"))


async def count_models(database: Database) -> int:
    return await database.read(lambda connection: connection.execute(COUNT_MODELS).scalar_one())


async def execute(database: Database, sql: str) -> None:
    def step(connection: Connection) -> None:
        connection.execute(text(sql))

    await database.write(step)


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 10_000)],
)
async def test_a_commit_survives_a_power_cut_and_rows_refer_to_rows(
    database: Database, pragma: str, expected: object
) -> None:
    for transaction in (database.read, database.write):
        assert await transaction(lambda connection: connection.scalar(text(f"PRAGMA {pragma}"))) == expected


async def test_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    def difference(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    assert await database.read(difference) == []


async def test_a_database_is_opened_again_with_its_rows(tmp_path: Path) -> None:
    for count in (0, 1):
        async with open_database(settings_of(tmp_path)) as database:
            assert await count_models(database) == count
            await add_model(database, str(count))


async def test_migrations_that_are_cut_off_leave_the_database_as_it_was(tmp_path: Path) -> None:
    def cut_off(connection: Connection) -> None:
        for table in (*reversed(metadata.sorted_tables), "alembic_version"):
            connection.execute(text(f"DROP TABLE {table}"))
        upgrade_schema(connection)
        raise KeyboardInterrupt

    async with open_database(settings_of(tmp_path)) as database:
        await add_model(database, "kept")
        with pytest.raises(KeyboardInterrupt):
            await database.write(cut_off)
        assert await count_models(database) == 1


async def test_a_database_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    async with open_database(settings_of(tmp_path)) as database:
        await add_model(database, "kept")
        await execute(database, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match="9999"):
        async with open_database(settings_of(tmp_path)):
            pass


async def test_what_an_exception_leaves_is_rolled_back(database: Database) -> None:
    def fail_half_way(connection: Connection) -> None:
        insert_model(connection, "a")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail_half_way)
    assert await count_models(database) == 0


async def test_a_cancelled_writer_leaves_at_once_and_its_transaction_runs_to_its_end(database: Database) -> None:
    wrote, may_end = Event(), Event()

    def write_and_wait(connection: Connection) -> None:
        insert_model(connection, "under way")
        wrote.set()
        assert may_end.wait(WAIT_S)

    under_way = asyncio.ensure_future(database.write(write_and_wait))
    assert await asyncio.to_thread(wrote.wait, WAIT_S)
    not_begun = asyncio.ensure_future(add_model(database, "not begun"))
    # Until it is asked for.
    await asyncio.sleep(0)
    for writer in (under_way, not_begun):
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        assert writer.cancelled()
    assert await count_models(database) == 0
    may_end.set()
    await add_model(database, "the next one's")
    assert await count_models(database) == 3


async def test_closing_waits_for_the_transactions_of_callers_that_left(tmp_path: Path) -> None:
    may_end = Event()

    def wait_and_write(connection: Connection) -> None:
        assert may_end.wait(WAIT_S)
        insert_model(connection, "a")

    async with open_database(settings_of(tmp_path)) as database:
        writer = asyncio.ensure_future(database.write(wait_and_write))
        await asyncio.sleep(0)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        may_end.set()
    async with open_database(settings_of(tmp_path)) as database:
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
    # Cancelled before it asked for its transaction, it has none; never half of one.
    assert await count_models(database) == (3 if turns else 2)


async def test_a_reader_keeps_its_snapshot_and_does_not_stop_writers(database: Database) -> None:
    looked, may_look_again = Event(), Event()

    def look_twice(connection: Connection) -> tuple[int, int]:
        first = connection.execute(COUNT_MODELS).scalar_one()
        looked.set()
        assert may_look_again.wait(WAIT_S)
        return first, connection.execute(COUNT_MODELS).scalar_one()

    reader = asyncio.ensure_future(database.read(look_twice))
    assert await asyncio.to_thread(looked.wait, WAIT_S)
    await add_model(database, "a")
    may_look_again.set()
    assert await reader == (0, 0)
    assert await count_models(database) == 1


async def test_writers_that_read_first_never_fail_on_each_other(tmp_path: Path) -> None:
    # Two databases stand for two processes. With deferred transactions most of these fail at once as "locked".
    async with open_database(settings_of(tmp_path)) as one, open_database(settings_of(tmp_path)) as other:

        async def read_then_write(database: Database, digest: str) -> None:
            def step(connection: Connection) -> None:
                connection.execute(COUNT_MODELS)
                insert_model(connection, digest)

            await database.write(step)

        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(read_then_write(one, f"one {number}"))
                group.create_task(read_then_write(other, f"other {number}"))
        assert await count_models(one) == 100


async def test_a_writer_whom_another_process_keeps_waiting_fails_and_the_next_one_writes(
    database: Database, tmp_path: Path
) -> None:
    await execute(database, "PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(tmp_path / "trireel.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            await add_model(database, "a")
    await add_model(database, "b")
    assert await count_models(database) == 1


async def test_a_commit_that_fails_leaves_the_database_usable(database: Database) -> None:
    def refer_to_nothing(connection: Connection) -> None:
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(insert(parts).values(run_id="none", segment=0, body=b""))

    with pytest.raises(StorageError, match="FOREIGN KEY"):
        await database.write(refer_to_nothing)
    await add_model(database, "a")
    assert await count_models(database) == 1


async def test_a_full_disk_is_told_as_such_and_leaves_the_database_usable(database: Database) -> None:
    def fill(connection: Connection) -> None:
        connection.execute(text("PRAGMA max_page_count = 1"))
        for number in range(10_000):
            connection.execute(insert(models).values(digest=str(number), card="x" * 4000))

    with pytest.raises(DiskFullError):
        await database.write(fill)
    await execute(database, "PRAGMA max_page_count = 1000000")
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
    "url",
    [
        "mysql+pymysql://localhost/x",
        "no url",
        "nosuch://x",
        "sqlite+aiosqlite:///x.db",
        "postgresql+asyncpg://x",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
async def test_other_databases_and_drivers_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="use sqlite:"):
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
