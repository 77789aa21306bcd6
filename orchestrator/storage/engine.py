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
from orchestrator.storage.connected_threads import ConnectedThreads, open_connected_threads
from orchestrator.storage.schema import upgrade_schema

Result = TypeVar("Result")

# Enough that a slow page holds nobody up; each keeps a connection and SQLite's cache of 2 MB.
READERS: Final = 4
BUSY_TIMEOUT_S: Final = 10.0
WAL_BYTES: Final = 64 * 1024**2
WRITES: Final = "trireel_writes"
URL_FORMS: Final = "use sqlite:////folder/file.db, or postgresql+psycopg://... with the extra `scale` installed"
# Any number will do, as long as every writer takes the same one.
POSTGRESQL_WRITER_LOCK: Final = 0x7472_6972
SQLITE_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # A job that was answered 202 must survive a power cut; NORMAL could lose the last commits.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {WAL_BYTES}",
)


class Database:
    """Transactions as functions over a connection, each in one trip to a thread of the database's.

    They raise StorageError and DiskFullError, and nothing of SQLAlchemy's. Once asked for, a transaction runs to its
    end, also when the caller is cancelled.

    There is one writing thread: SQLite has one writer anyway, and its own wait is a sleep that lets the unlucky starve.
    Writers of several processes are one at a time in PostgreSQL too, by an advisory lock: event ids then become
    visible in order, so that a reader who has seen id 6 never misses id 5.
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
        """Commits at the end, rolls back when an exception leaves."""
        return await self._writer.transact(step)


@asynccontextmanager
async def open_database(settings: StorageSettings) -> AsyncIterator[Database]:
    """Bring the tables up to date and serve them; the end waits for the transactions under way.

    Raises SettingsError, StorageError, DiskFullError.
    """
    engine = _build_engine(settings.database_url)
    writing_engine = engine.execution_options(**{WRITES: True})
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
    engine = _create_engine(url)
    event.listen(engine, "begin", _begin_postgresql)
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
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if _writes(connection):
        # Each statement of READ COMMITTED, the server's default, sees all that was committed before this lock was had.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({POSTGRESQL_WRITER_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _writes(connection: Connection) -> bool:
    writes: bool = connection.get_execution_options().get(WRITES, False)
    return writes
