"""Brings a database's tables up to date, in the caller's transaction: killed half-way, nothing has changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from orchestrator.errors import StorageError
from orchestrator.storage.postgresql import MIGRATING

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def upgrade_schema(connection: Connection) -> None:
    """Run the migrations that the database has not seen. Does nothing on one that is up to date.

    Raises StorageError on a database that a later release made.
    """
    from alembic import command  # only needed once, at start
    from alembic.config import Config
    from alembic.util import CommandError

    # Two lines at every start that tell nothing; a migration that fails raises.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        connection.execute(MIGRATING)
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise StorageError(f"the database does not fit this release ({exc}); install the one that made it") from exc
