"""A data directory belongs to one database, and knows it by an identity that both keep: a file here, a row there."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, insert, make_url, select

from orchestrator.errors import DataDirForeignError
from orchestrator.settings import StorageSettings
from orchestrator.storage.durable import put_in_place, sync_path
from orchestrator.storage.engine import Database
from orchestrator.storage.failures import file_errors
from orchestrator.storage.ids import new_id
from orchestrator.storage.tables import data_directory

IDENTITY_FILE: Final = "identity"
# What the file is called until the database has the identity, too: a start that was cut off there is taken up again.
PROPOSED_FILE: Final = "identity.proposed"
KNOWN: Final = select(data_directory.c.identity)
CLAIM: Final = insert(data_directory)


async def require_own_data_dir(database: Database, settings: StorageSettings) -> None:
    """Join a new directory to a new database, and refuse any that were not joined to each other.

    Else two servers with one database and different directories would declare each other's results missing, and one
    with a new database would remove the files of another's as nobody's. SQLite in the directory moves along with it.

    Raises DataDirForeignError, StorageError.
    """
    if _lies_within(settings):
        return
    data_dir = settings.data_dir
    own = _read(data_dir / IDENTITY_FILE)
    known = await database.read(_known_identity)
    if own is None:
        proposed = _read(data_dir / PROPOSED_FILE)
        if known is None:
            proposed = proposed or _propose(data_dir)
            known = await database.write(lambda connection: _claim(connection, proposed))
        if known == proposed:
            _settle(data_dir)
            own = proposed
    if own != known:
        raise DataDirForeignError(_foreign(data_dir, own=own, known=known))


def _lies_within(settings: StorageSettings) -> bool:
    """Whether the database is a file in the data directory."""
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    return Path(url.database).resolve().is_relative_to(settings.data_dir.resolve())


def _foreign(data_dir: Path, *, own: str | None, known: str | None) -> str:
    file = data_dir / IDENTITY_FILE
    if known is None:
        return (
            f"{data_dir} belongs to another database than this new one; set TRIREEL_DATABASE_URL to that, or "
            f"TRIREEL_DATA_DIR to a new directory. If that database is gone for good, remove {file}: the files that "
            "this one does not know are then removed in time"
        )
    return (
        f"the database belongs to another data directory than {data_dir}; set TRIREEL_DATA_DIR to the one it was "
        f"first used with, on a volume that all servers share. If this is that one, and only its file {file.name} "
        f"was {'lost' if own is None else 'changed'}, write {known} into it"
    )


def _read(file: Path) -> str | None:
    with file_errors():
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.exists() else None


def _propose(data_dir: Path) -> str:
    identity = new_id("dir")
    file = data_dir / PROPOSED_FILE
    with file_errors():
        file.write_text(f"{identity}\n", encoding="utf-8")
        sync_path(file)
        sync_path(data_dir)
    return identity


def _settle(data_dir: Path) -> None:
    with file_errors():
        put_in_place(data_dir / PROPOSED_FILE, data_dir / IDENTITY_FILE)


def _known_identity(connection: Connection) -> str | None:
    identity: str | None = connection.execute(KNOWN).scalar()
    return identity


def _claim(connection: Connection, identity: str) -> str:
    """The database's identity, `identity` from now on if it had none."""
    known = _known_identity(connection)
    if known is None:
        connection.execute(CLAIM, {"identity": identity})
    return known or identity
