"""Brings a database's tables up to date, in the caller's transaction: killed half-way, nothing has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Connection

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def upgrade_schema(connection: Connection) -> None:
    """Run the migrations that the database has not seen. Does nothing on one that is up to date."""
    from alembic import command  # only needed once, at start
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
