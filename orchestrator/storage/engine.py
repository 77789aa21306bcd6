"""The database: SQLite by default, PostgreSQL by URL. One writing transaction at a time, any number of readers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any, Final

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from orchestrator.errors import SettingsError, StorageError
from orchestrator.settings import StorageSettings
from orchestrator.storage.failures import database_errors
from orchestrator.storage.schema import upgrade_schema
from orchestrator.storage.uninterrupted import Transactions

BUSY_TIMEOUT_S: Final = 10.0
# Kept open and waited for in order: with SQLite each is a thread, too dear to be made for one page.
CONNECTIONS: Final = 8
WAL_BYTES: Final = 64 * 1024**2
WRITES: Final = "trireel_writes"
URL_FORMS: Final = "use sqlite+aiosqlite:///file, or postgresql+psycopg://... with the extra `scale` installed"
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
    """Transactions of one event loop. Raises StorageError and DiskFullError, and nothing of SQLAlchemy's.

    Writers wait for their turn in order here; SQLite's own wait is a sleep that lets the unlucky starve. They are
    one at a time in PostgreSQL too, by an advisory lock: event ids then become visible in order, so that a reader
    who has seen id 6 never misses id 5.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writing_engine = engine.execution_options(**{WRITES: True})
        self._turn = asyncio.Lock()
        self.transactions = Transactions()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One consistent snapshot; keep it short, since an open one stops SQLite's checkpoints."""
        with database_errors():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Commits at the end, rolls back when an exception leaves."""
        async with self._turn:
            with database_errors():
                async with self._writing_engine.begin() as connection:
                    if connection.dialect.name == "postgresql":
                        await connection.execute(text(f"SELECT pg_advisory_xact_lock({POSTGRESQL_WRITER_LOCK})"))
                    yield connection


@asynccontextmanager
async def open_database(settings: StorageSettings) -> AsyncIterator[Database]:
    """Bring the tables up to date and serve them. Raises SettingsError, StorageError, DiskFullError."""
    engine = _build_engine(settings.database_url)
    try:
        database = Database(engine)
        async with database.write() as connection:
            await connection.run_sync(upgrade_schema)
        try:
            yield database
        finally:
            await database.transactions.aclose()
    finally:
        await engine.dispose()


def _build_engine(database_url: str) -> AsyncEngine:
    """Raises SettingsError for a URL that leads to no database of ours, or whose driver is not installed.

    Raises StorageError for a file that is no SQLite database.
    """
    try:
        url = make_url(database_url)
        if url.get_backend_name() == "sqlite":
            return _build_sqlite_engine(url)
        if url.get_backend_name() == "postgresql":
            return create_async_engine(url, pool_pre_ping=True, pool_size=CONNECTIONS, max_overflow=0)
    except (SQLAlchemyError, ImportError) as exc:
        raise SettingsError(f"TRIREEL_DATABASE_URL cannot be used: {exc}; {URL_FORMS}") from exc
    raise SettingsError(f"TRIREEL_DATABASE_URL names {url.get_backend_name()}; {URL_FORMS}")


def _build_sqlite_engine(url: URL) -> AsyncEngine:
    if not url.database or url.database == ":memory:":
        raise SettingsError(f"TRIREEL_DATABASE_URL names a database that forgets; {URL_FORMS}")
    engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=CONNECTIONS, max_overflow=0)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    _try_sqlite_file(url.database)
    return engine


def _try_sqlite_file(path: str) -> None:
    # aiosqlite 0.22 leaves a thread behind when it cannot open a file, and that thread's end needs the loop.
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
            connection.execute(SQLITE_PRAGMAS[0])
    except sqlite3.Error as exc:
        raise StorageError(f"{path} cannot be opened as a database: {exc}") from exc


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: its BEGIN is deferred, and a deferred one that
    # reads first and writes later fails at once under contention, whatever the busy time-out.
    connection.isolation_level = None
    try:
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(pragma)
        cursor.close()
    except BaseException:
        # The pool does not know the connection yet, and its thread would outlive the loop.
        connection.close()
        raise


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
