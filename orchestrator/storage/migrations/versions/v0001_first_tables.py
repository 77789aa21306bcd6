"""The first tables: videos, models, runs, segments, parts, jobs, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(length=32)
SHA256 = sa.String(length=64)
STATE = sa.String(length=16)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    _create_videos_and_models()
    _create_runs()
    _create_segments_and_parts()
    _create_jobs()
    _create_events()


def _create_videos_and_models() -> None:
    op.create_table(
        "videos",
        sa.Column("seq", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("id", ID, nullable=False, unique=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("sha256", SHA256, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("header", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("index_state", STATE, nullable=False),
        sa.Column("report", JSON),
        sa.Column("index_failure", JSON),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_videos_index_state", "videos", ["index_state"])
    op.create_table(
        "models",
        sa.Column("digest", SHA256, primary_key=True),
        sa.Column("card", sa.Text(), nullable=False),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("seq", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("id", ID, nullable=False, unique=True),
        sa.Column("key", SHA256, nullable=False),
        sa.Column("video_sha256", SHA256, nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.BigInteger(), nullable=False),
        sa.Column("model_digest", SHA256, sa.ForeignKey("models.digest"), nullable=False),
        sa.Column("sampling", JSON, nullable=False),
        sa.Column("video_id", ID, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("frames_total", sa.BigInteger()),
        sa.Column("segments_total", sa.BigInteger()),
        sa.Column("segments_done", sa.BigInteger(), nullable=False),
        sa.Column("ledger", JSON, nullable=False),
        sa.Column("seconds", JSON, nullable=False),
        sa.Column("warnings", JSON, nullable=False),
        sa.Column("notes", JSON, nullable=False),
        sa.Column("virtual_time", sa.Double(), nullable=False),
        sa.Column("failure", JSON),
        sa.Column("finished_at", TIME),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_state", "runs", ["state"])
    op.create_index("ix_runs_video_id", "runs", ["video_id"])
    unless_failed = sa.text("state != 'failed'")
    op.create_index(
        "runs_key_unless_failed",
        "runs",
        ["key"],
        unique=True,
        sqlite_where=unless_failed,
        postgresql_where=unless_failed,
    )


def _create_segments_and_parts() -> None:
    op.create_table(
        "segments",
        sa.Column("run_id", ID, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("first_sample", sa.BigInteger(), nullable=False),
        sa.Column("last_sample", sa.BigInteger(), nullable=False),
        sa.Column("entry_pts", sa.BigInteger()),
        sa.Column("state", STATE, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("strikes", sa.Integer(), nullable=False),
        sa.Column("leased_until", TIME),
        sa.Column("first_frame", sa.BigInteger()),
        sa.Column("last_frame", sa.BigInteger()),
        sa.Column("failed_frames", JSON),
        sa.Column("frame_errors", sa.Integer()),
    )
    op.create_index("segments_of_run_by_state", "segments", ["run_id", "state", "number"])
    op.create_table(
        "parts",
        sa.Column("run_id", ID, primary_key=True),
        sa.Column("segment", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id", "segment"], ["segments.run_id", "segments.number"], ondelete="CASCADE"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("id", ID, nullable=False, unique=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("run_id", ID, sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("video_id", ID, nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("view", JSON, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("timeout_s", sa.Double()),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("failure", JSON),
        sqlite_autoincrement=True,
    )
    for column in ("run_id", "state", "video_id"):
        op.create_index(f"ix_jobs_{column}", "jobs", [column])


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("kind", STATE, nullable=False),
        sa.Column("job_id", ID, sa.ForeignKey("jobs.id", ondelete="CASCADE")),
        sa.Column("run_id", ID, sa.ForeignKey("runs.id", ondelete="CASCADE")),
        sa.Column("body", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_of_job", "events", ["job_id", "id"])
    op.create_index("events_of_run", "events", ["run_id", "id"])
