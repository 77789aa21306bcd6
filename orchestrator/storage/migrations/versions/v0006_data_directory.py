"""Which data directory the database belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("data_directory", sa.Column("identity", sa.String(length=32), primary_key=True))
