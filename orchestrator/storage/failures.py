"""Where the database's and the file system's errors become ours, once."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from orchestrator.errors import DataDamagedError, DiskFullError, StorageError

FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
POSTGRESQL_DISK_FULL: Final = "53100"
DISK_FULL: Final = "the disk is full; free some space, then try again"


@contextmanager
def database_errors() -> Iterator[None]:
    """Raises DiskFullError or StorageError for what the database refuses; all else passes through."""
    try:
        yield
    except DBAPIError as exc:
        if _tells_of_full_disk(exc.orig):
            raise DiskFullError(DISK_FULL) from exc
        if exc.connection_invalidated:
            raise StorageError(f"the connection to the database was lost: {exc.orig}") from exc
        raise StorageError(f"the database refused: {exc.orig}") from exc
    except SQLAlchemyError as exc:
        raise StorageError(f"the database cannot be used: {exc}") from exc


@contextmanager
def file_errors() -> Iterator[None]:
    """Raises DiskFullError or StorageError for what the file system refuses."""
    try:
        yield
    except FileNotFoundError as exc:
        raise DataDamagedError(f"a file of the data directory is missing: {exc.filename}") from exc
    except OSError as exc:
        if exc.errno in FULL_ERRNOS:
            raise DiskFullError(DISK_FULL) from exc
        raise StorageError(f"the data directory cannot be used: {exc}") from exc


def _tells_of_full_disk(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(error, "sqlstate", None) == POSTGRESQL_DISK_FULL
