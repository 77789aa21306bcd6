"""A data directory belongs to one database, wherever that lies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from orchestrator.errors import DataDirForeignError
from orchestrator.settings import StorageSettings
from orchestrator.storage.engine import open_database
from orchestrator.storage.identity import IDENTITY_FILE, PROPOSED_FILE
from orchestrator.storage.stores import open_stores
from orchestrator.storage.tables import metadata
from tests.support.postgres import PostgresServer, postgres, postgres_of_session

__all__ = ["postgres", "postgres_of_session"]

PROPOSED = "dir_proposed"

Start = Callable[[Path], Awaitable[None]]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgresql"))])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new database that lies outside every data directory."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/elsewhere.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url()


def settings_of(database_url: str, data_dir: Path) -> StorageSettings:
    return StorageSettings(database_url=database_url, data_dir=data_dir, max_upload_bytes=1000)


@pytest.fixture
def start(database_url: str) -> Start:
    async def open_and_close(data_dir: Path) -> None:
        async with open_stores(settings_of(database_url, data_dir)):
            pass

    return open_and_close


def forget_everything(database_url: str) -> None:
    """As a database that was just made."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    engine.dispose()


async def test_a_directory_and_its_database_know_each_other_also_after_a_move(start: Start, tmp_path: Path) -> None:
    for _ in range(2):
        await start(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "moved")
    await start(tmp_path / "moved")


async def test_an_empty_directory_beside_a_used_database_is_refused_and_stays_so(start: Start, tmp_path: Path) -> None:
    await start(tmp_path / "data")
    identity = (tmp_path / "data" / IDENTITY_FILE).read_text().strip()
    for _ in range(2):
        with pytest.raises(DataDirForeignError, match="set TRIREEL_DATA_DIR") as refused:
            await start(tmp_path / "wrong")
        assert f"lost, write {identity}" in str(refused.value)
    await start(tmp_path / "data")
    # As the message says, where the file alone was lost.
    (tmp_path / "wrong" / IDENTITY_FILE).write_text(identity)
    await start(tmp_path / "wrong")


async def test_a_directory_of_another_database_is_refused(start: Start, tmp_path: Path) -> None:
    await start(tmp_path / "data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / IDENTITY_FILE).write_text("dir_other\n")
    with pytest.raises(DataDirForeignError, match="changed, write"):
        await start(tmp_path / "other")


async def test_a_new_database_beside_a_used_directory_is_refused(
    start: Start, database_url: str, tmp_path: Path
) -> None:
    await start(tmp_path / "data")
    forget_everything(database_url)
    with pytest.raises(DataDirForeignError, match="set TRIREEL_DATABASE_URL"):
        await start(tmp_path / "data")
    (tmp_path / "data" / IDENTITY_FILE).unlink()
    await start(tmp_path / "data")


async def test_of_two_new_directories_at_a_new_database_one_wins(start: Start, tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / PROPOSED_FILE).write_text(PROPOSED)
    await start(tmp_path / "quick")
    with pytest.raises(DataDirForeignError):
        await start(tmp_path / "slow")


@pytest.mark.parametrize("has_row", [False, True])
async def test_a_first_start_that_was_cut_off_is_taken_up_again(
    start: Start, database_url: str, tmp_path: Path, has_row: bool
) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / PROPOSED_FILE).write_text(PROPOSED)
    async with open_database(settings_of(database_url, data_dir)) as database:
        if has_row:
            table = metadata.tables["data_directory"]
            await database.write(lambda connection: connection.execute(table.insert(), {"identity": PROPOSED}).rowcount)
    await start(data_dir)
    assert [path.name for path in data_dir.glob("identity*")] == [IDENTITY_FILE]
    assert (data_dir / IDENTITY_FILE).read_text() == PROPOSED
    await start(data_dir)


async def test_sqlite_in_the_directory_needs_no_identity(tmp_path: Path) -> None:
    async with open_stores(settings_of(f"sqlite:///{tmp_path}/data/trireel.db", tmp_path / "data")):
        assert not (tmp_path / "data" / IDENTITY_FILE).exists()
