"""A database as an earlier release left it: the rows of today's, in the tables and columns that there were then."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine

from orchestrator.storage.schema import MIGRATIONS
from orchestrator.storage.tables import metadata
from tests.support.postgres import DATABASE, PostgresServer

EARLIER_DATABASE = "earlier"


def previous_revision() -> str:
    """The one before the newest."""
    scripts = ScriptDirectory(str(MIGRATIONS))
    newest = scripts.get_revision("head")
    assert newest is not None
    assert isinstance(newest.down_revision, str)
    return newest.down_revision


def make_tables(database_url: str, revision: str) -> None:
    """In an empty database, as the release with `revision` made them."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with create_engine(database_url, poolclass=NullPool).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def copy_sqlite_rows(source: Path, target: Path) -> None:
    """Into the tables and columns that the target has."""
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.execute("ATTACH ? AS source", (str(source),))
        tables = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        for (table,) in connection.execute(tables).fetchall():
            if table != "alembic_version":
                names = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
                columns = ", ".join(f'"{name}"' for name in names)
                connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM source.{table}")


def take_sqlite_back(path: Path, revision: str) -> None:
    """Turn a database that nobody uses into one of an earlier release."""
    newer = path.with_name("newer.db")
    for suffix in ("", "-wal", "-shm"):
        if path.with_name(path.name + suffix).exists():
            path.with_name(path.name + suffix).rename(newer.with_name(newer.name + suffix))
    make_tables(f"sqlite:///{path}", revision)
    copy_sqlite_rows(newer, path)
    for each in path.parent.glob("newer.db*"):
        each.unlink()


def take_postgresql_back(server: PostgresServer, revision: str) -> None:
    """The tests' database, likewise; sequences go on where they were."""
    server.execute(f"CREATE DATABASE {EARLIER_DATABASE}", database="postgres")
    make_tables(server.url(database=EARLIER_DATABASE), revision)
    for table in metadata.sorted_tables:
        server.copy_rows(table.name, EARLIER_DATABASE)
    for table, column in (("videos", "seq"), ("runs", "seq"), ("jobs", "seq"), ("events", "id")):
        newest = f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), max({column})) FROM {table}"
        server.execute(newest, database=EARLIER_DATABASE)
    server.end_connections()
    server.execute(f"DROP DATABASE {DATABASE}", database="postgres")
    server.execute(f"ALTER DATABASE {EARLIER_DATABASE} RENAME TO {DATABASE}", database="postgres")
