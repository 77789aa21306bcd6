"""Alembic runs this for `storage.schema.upgrade_schema`, which passes the connection and owns the transaction."""

from __future__ import annotations

from alembic import context

from orchestrator.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most of a table in place; Alembic then copies it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
