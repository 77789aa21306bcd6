"""What PostgreSQL needs: limits on every wait, one writer at a time, and the truth about a commit nobody answered."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

WRITES: Final = "trireel_writes"
# Any number will do, as long as every writer takes the same one.
WRITER_LOCK: Final = 0x7472_6972
# In `Connection.info`: the writing transaction under way, as PostgreSQL numbers them.
TRANSACTION_ID: Final = "trireel_transaction_id"
# libpq's; each may be set otherwise in the URL. A host that is gone is noticed in a minute while nothing is asked of
# it, and in 30 s once something is.
CONNECT_ARGS: Final[dict[str, str]] = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "application_name": "trireel",
}
# A process that stands still in the middle of a transaction has the writers' lock; it loses both before those who wait
# for the lock give up. No transaction of ours waits for anything but the database.
SESSION_LIMITS: Final = {
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "10s",
    "statement_timeout": "60s",
}
TRANSACTION_STATUS: Final = text("SELECT pg_xact_status(CAST(:transaction_id AS xid8))")
BEGIN_WRITING: Final = f"SELECT pg_advisory_xact_lock({WRITER_LOCK}), pg_current_xact_id()"
# A migration takes as long as it takes.
MIGRATING: Final = text("SET LOCAL statement_timeout = 0")


def connect_args(url: URL) -> dict[str, str]:
    """What `url` leaves open; its own `options` come last, so that they win."""
    limits = " ".join(f"-c {name}={limit}" for name, limit in SESSION_LIMITS.items())
    options = url.query.get("options", "")
    own = options if isinstance(options, str) else " ".join(options)
    return {name: value for name, value in CONNECT_ARGS.items() if name not in url.query} | {
        "options": f"{limits} {own}".rstrip()
    }


def begin(connection: Connection) -> None:
    """Of a writer or, without the execution option `WRITES`, of a reader; the driver has sent BEGIN by itself."""
    if connection.get_execution_options().get(WRITES, False):
        # Each statement of READ COMMITTED, the server's default, sees all that was committed before this lock was had.
        row: Any = connection.exec_driver_sql(BEGIN_WRITING).one()
        connection.info[TRANSACTION_ID] = row[1]
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def transaction_id(connection: Connection) -> str | None:
    """Of the writing transaction under way; None on other databases and for readers."""
    number: str | None = connection.info.get(TRANSACTION_ID)
    return number


def has_committed(connection: Connection, transaction_id: str) -> bool:
    """Whether a transaction whose connection was lost has committed. connection: of a writer.

    Its answer is final: the writers' lock, which `connection` has by now, is let go only when a transaction has ended.
    """
    status: str | None = connection.scalar(TRANSACTION_STATUS, {"transaction_id": transaction_id})
    return status == "committed"
