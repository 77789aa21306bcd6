"""The database: SQLite by default, PostgreSQL by URL. One writing transaction at a time, several readers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import SettingsError
from orchestrator.settings import StorageSettings
from orchestrator.storage import postgresql
from orchestrator.storage.connected_threads import ConnectedThreads, open_connected_threads
from orchestrator.storage.schema import upgrade_schema

Result = TypeVar("Result")

# Enough that a slow page holds nobody up; each keeps a connection and SQLite's cache of 2 MB.
READERS: Final = 4
BUSY_TIMEOUT_S: Final = 10.0
WAL_BYTES: Final = 64 * 1024**2
URL_FORMS: Final = "use sqlite:////folder/file.db, or postgresql+psycopg://... with the extra `scale` installed"
SQLITE_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # A job that was answered 202 must survive a power cut; NORMAL could lose the last commits.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {WAL_BYTES}",
)


class Database:
    """Transactions as functions over a connection, each in one trip to a thread of the database's.

    They raise StorageError, DiskFullError and CommitUnknownError, and nothing of SQLAlchemy's. Once asked for, a
    transaction runs to its end, also when the caller is cancelled.

    There is one writing thread: SQLite has one writer anyway, and its own wait is a sleep that lets the unlucky starve.
    Writers of several processes are one at a time in PostgreSQL too, by an advisory lock: event ids then become
    visible in order, so that a reader who has seen id 6 never misses id 5.

    A connection that was lost before a transaction began is replaced unnoticed. One that is lost in the middle takes
    the transaction along (StorageError: nothing happened). One that is lost during the commit: see `write`.
    """

    def __init__(self, *, readers: ConnectedThreads, writer: ConnectedThreads) -> None:
        self._readers = readers
        self._writer = writer

    async def read(self, step: Callable[[Connection], Result]) -> Result:
        """Over one consistent snapshot; keep it short, since an open one stops SQLite's checkpoints.

        What `step` returns must not depend on the connection any more.
        """
        return await self._readers.transact(step)

    async def write(self, step: Callable[[Connection], Result]) -> Result:
        """Commits at the end, rolls back when an exception leaves.

        A commit that the server did not answer is looked up; only where it cannot be reached is CommitUnknownError
        raised, and whoever writes again must bear that the first time counted.
        """
        return await self._writer.transact(step)


def is_shareable(database_url: str) -> bool:
    """Whether several servers may use the database at once, each with a lease on what it works on."""
    return database_url.startswith("postgresql")


@asynccontextmanager
async def open_database(settings: StorageSettings) -> AsyncIterator[Database]:
    """Bring the tables up to date and serve them; the end waits for the transactions under way.

    Raises SettingsError, StorageError, DiskFullError.
    """
    engine = _build_engine(settings.database_url)
    writing_engine = engine.execution_options(**{postgresql.WRITES: True})
    with (
        open_connected_threads(engine, "db-read", count=READERS) as readers,
        open_connected_threads(writing_engine, "db-write", count=1) as writer,
    ):
        database = Database(readers=readers, writer=writer)
        await database.write(upgrade_schema)
        yield database


def _build_engine(database_url: str) -> Engine:
    """Raises SettingsError for a URL that leads to no database of ours, or whose driver is not installed."""
    try:
        url = make_url(database_url)
        match url.drivername:
            case "sqlite":
                return _build_sqlite_engine(url)
            case "postgresql+psycopg":
                return _build_postgresql_engine(url)
    except (SQLAlchemyError, ImportError) as exc:
        raise SettingsError(f"TRIREEL_DATABASE_URL cannot be used: {exc}; {URL_FORMS}") from exc
    raise SettingsError(f"TRIREEL_DATABASE_URL names {url.drivername}; {URL_FORMS}")


def _build_sqlite_engine(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise SettingsError(f"TRIREEL_DATABASE_URL names a database that forgets; {URL_FORMS}")
    engine = _create_engine(url, timeout=BUSY_TIMEOUT_S)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _build_postgresql_engine(url: URL) -> Engine:
    engine = _create_engine(url, **postgresql.connect_args(url))
    event.listen(engine, "begin", postgresql.begin)
    return engine


def _create_engine(url: URL, **connect_args: Any) -> Engine:
    return create_engine(
        url,
        # The threads keep their connections.
        poolclass=NullPool,
        connect_args=connect_args,
        json_serializer=_to_json_text,
        json_deserializer=msgspec.json.decode,
    )


def _to_json_text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: its BEGIN is deferred, and a deferred one that
    # reads first and writes later fails at once under contention, whatever the busy time-out.
    connection.isolation_level = None
    for pragma in SQLITE_PRAGMAS:
        connection.execute(pragma).close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(postgresql.WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
