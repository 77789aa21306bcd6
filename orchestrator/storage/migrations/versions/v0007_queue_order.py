"""The queue's order as an index, in the place of the one by state alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("jobs_by_state_next_first", "jobs", ["state", sa.text("priority DESC"), "seq"])
    op.drop_index("ix_jobs_state", "jobs")
