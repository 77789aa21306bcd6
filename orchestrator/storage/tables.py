"""The tables. Changing one means a new migration in `migrations/versions`; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Double,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)

from orchestrator.core.records import EventKind
from orchestrator.core.states import IndexState, JobState, RunState, SegmentState

metadata: Final = MetaData()

ID: Final = String(32)
SHA256: Final = String(64)
# SQLite numbers rows by itself only where the type is exactly INTEGER; it holds 64 bits all the same.
SERIAL: Final = BigInteger().with_variant(Integer(), "sqlite")
JSON_VALUE: Final = JSON(none_as_null=True)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC outside; SQLite keeps it as text of fixed width, which sorts as time does."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _states(kind: type[StrEnum]) -> Enum:
    return Enum(
        kind,
        native_enum=False,
        create_constraint=False,
        length=16,
        values_callable=lambda each: [s.value for s in each],
    )


videos: Final = Table(
    "videos",
    metadata,
    Column("seq", SERIAL, primary_key=True, autoincrement=True),
    Column("id", ID, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("sha256", SHA256, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("header", JSON_VALUE, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("index_state", _states(IndexState), nullable=False, index=True),
    Column("report", JSON_VALUE),
    Column("index_failure", JSON_VALUE),
    sqlite_autoincrement=True,
)

# Kept for as long as a run needs it, so that results stay readable when Triton no longer serves the version.
models: Final = Table(
    "models",
    metadata,
    Column("digest", SHA256, primary_key=True),
    Column("card", Text, nullable=False),
)

runs: Final = Table(
    "runs",
    metadata,
    Column("seq", SERIAL, primary_key=True, autoincrement=True),
    Column("id", ID, nullable=False, unique=True),
    Column("key", SHA256, nullable=False),
    Column("video_sha256", SHA256, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("model_version", BigInteger, nullable=False),
    Column("model_digest", SHA256, ForeignKey("models.digest"), nullable=False),
    Column("sampling", JSON_VALUE, nullable=False),
    # No foreign key: results outlive their video.
    Column("video_id", ID, nullable=False, index=True),
    Column("state", _states(RunState), nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("frames_total", BigInteger),
    Column("segments_total", BigInteger),
    Column("segments_done", BigInteger, nullable=False),
    Column("ledger", JSON_VALUE, nullable=False),
    Column("seconds", JSON_VALUE, nullable=False),
    Column("warnings", JSON_VALUE, nullable=False),
    Column("notes", JSON_VALUE, nullable=False),
    Column("virtual_time", Double, nullable=False),
    Column("waiting", JSON_VALUE),
    Column("failure", JSON_VALUE),
    Column("finished_at", UtcDateTime),
    sqlite_autoincrement=True,
)
# One run a spec; a failed one is never found again, so a new one may stand beside it.
Index(
    "runs_key_unless_failed",
    runs.c.key,
    unique=True,
    sqlite_where=text("state != 'failed'"),
    postgresql_where=text("state != 'failed'"),
)

segments: Final = Table(
    "segments",
    metadata,
    Column("run_id", ID, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("first_sample", BigInteger, nullable=False),
    Column("last_sample", BigInteger, nullable=False),
    # Ticks; after the commit, the entry that worked.
    Column("entry_pts", BigInteger),
    Column("state", _states(SegmentState), nullable=False),
    # Leases given so far: the fencing token. Strikes: those of them that killed their decoder or their worker.
    Column("attempt", Integer, nullable=False),
    Column("strikes", Integer, nullable=False),
    # The code of the last strike.
    Column("strike_reason", Text),
    Column("leased_until", UtcDateTime),
    # Known from the commit on: source indices, and [index, reason] of each frame that gave no picture.
    Column("first_frame", BigInteger),
    Column("last_frame", BigInteger),
    Column("failed_frames", JSON_VALUE),
    Column("frame_errors", Integer),
    Index("segments_of_run_by_state", "run_id", "state", "number"),
)

parts: Final = Table(
    "parts",
    metadata,
    Column("run_id", ID, primary_key=True),
    Column("segment", Integer, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
    ForeignKeyConstraint(["run_id", "segment"], ["segments.run_id", "segments.number"], ondelete="CASCADE"),
)

jobs: Final = Table(
    "jobs",
    metadata,
    Column("seq", SERIAL, primary_key=True, autoincrement=True),
    Column("id", ID, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("run_id", ID, ForeignKey("runs.id"), nullable=False, index=True),
    Column("video_id", ID, nullable=False, index=True),
    Column("state", _states(JobState), nullable=False),
    Column("view", JSON_VALUE, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("timeout_s", Double),
    Column("tags", JSON_VALUE, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("failure", JSON_VALUE),
    sqlite_autoincrement=True,
)

# The queue in its order, and jobs by state.
Index("jobs_by_state_next_first", jobs.c.state, jobs.c.priority.desc(), jobs.c.seq)

# Of the directory that the database was first used with: one row, or none yet.
data_directory: Final = Table("data_directory", metadata, Column("identity", ID, primary_key=True))

# Outlive their job, so that a submit that is sent again late does not bring back what was deleted.
idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_sha256", SHA256, nullable=False),
    Column("job_id", ID, nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
)

events: Final = Table(
    "events",
    metadata,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
    Column("kind", _states(EventKind), nullable=False),
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE")),
    Column("run_id", ID, ForeignKey("runs.id", ondelete="CASCADE")),
    Column("body", JSON_VALUE, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("events_of_job", "job_id", "id"),
    Index("events_of_run", "run_id", "id"),
    sqlite_autoincrement=True,
)
