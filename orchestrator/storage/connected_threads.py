"""Threads that keep a database connection each, and run one transaction after the other over it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from orchestrator.errors import CommitUnknownError
from orchestrator.storage.failures import database_errors
from orchestrator.storage.postgresql import has_committed, transaction_id
from orchestrator.storage.threads import Threads, open_threads

Result = TypeVar("Result")


class _OfThread(threading.local):
    connection: Connection | None = None


class _Connections:
    """One for each thread that asks, opened when it first does, and kept.

    Taking one from a pool for every transaction would double what a short one costs: 113 against 52 us of CPU for one
    look-up in SQLite.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._own = _OfThread()
        self._opened: set[Connection] = set()

    def own(self) -> Connection:
        """The calling thread's."""
        if self._own.connection is None:
            self._own.connection = self._engine.connect()
            self._opened.add(self._own.connection)
        return self._own.connection

    def drop_own(self) -> None:
        """Close the calling thread's; it gets another when it next asks."""
        if (connection := self._own.connection) is not None:
            self._own.connection = None
            self._opened.discard(connection)
            connection.close()

    def close(self) -> None:
        """After the end of the threads."""
        with database_errors():
            for connection in self._opened:
                connection.close()


class ConnectedThreads:
    """Transactions run in the order in which they were asked for, as many at once as there are threads."""

    def __init__(self, connections: _Connections, threads: Threads) -> None:
        self._connections = connections
        self._threads = threads

    async def transact(self, step: Callable[[Connection], Result]) -> Result:
        """Commits at the end, rolls back when an exception leaves.

        Raises StorageError, DiskFullError; CommitUnknownError where the server went away in the middle of the commit
        and cannot be asked. The transaction runs to its end also when the caller is cancelled, who then leaves at once.
        """
        return await self._threads.run(self._transact, step)

    def _transact(self, step: Callable[[Connection], Result]) -> Result:
        with database_errors():
            try:
                with self._begin() as transaction:
                    result = step(transaction.connection)
                    self._commit(transaction)
                    return result
            except SQLAlchemyError:
                # SQLite is still in its transaction when a commit fails, and a server's connection may be lost.
                self._connections.drop_own()
                raise

    def _begin(self) -> RootTransaction:
        """Over another connection where the server has ended the one that was kept, since nothing is done yet."""
        try:
            return self._connections.own().begin()
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise
            self._connections.drop_own()
        return self._connections.own().begin()

    def _commit(self, transaction: RootTransaction) -> None:
        number = transaction_id(transaction.connection)
        try:
            transaction.commit()
        except DBAPIError as exc:
            if number is None or not exc.connection_invalidated:
                raise
            self._connections.drop_own()
            if not self._has_committed(number):
                raise

    def _has_committed(self, number: str) -> bool:
        """Raises CommitUnknownError."""
        try:
            with self._begin() as transaction:
                return has_committed(transaction.connection, number)
        except SQLAlchemyError as exc:
            self._connections.drop_own()
            raise CommitUnknownError(
                "the database went away while it stored this, and may or may not have; look, then try again"
            ) from exc


@contextmanager
def open_connected_threads(engine: Engine, name: str, *, count: int) -> Iterator[ConnectedThreads]:
    """engine: without a pool of its own. The end waits for the transactions under way and those still to begin."""
    with closing(_Connections(engine)) as connections, open_threads(name, count=count) as threads:
        yield ConnectedThreads(connections, threads)
