"""What runs wait for, as a column of theirs. Steps inside a transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, select

from orchestrator.core.records import Failure, Waiting
from orchestrator.core.states import RunState
from orchestrator.core.waiting import is_news, waiting_after
from orchestrator.errors import NotFoundError
from orchestrator.storage.moves import UPDATE_RUN, WANTED_RUNS
from orchestrator.storage.row_codec import to_waiting
from orchestrator.storage.tables import runs

OF_RUN: Final = select(runs.c.state, runs.c.waiting).where(runs.c.id == bindparam("run_id"))
AT_WORK: Final = WANTED_RUNS.with_only_columns(runs.c.waiting).where(
    runs.c.state == RunState.OPEN, runs.c.waiting.is_not(None)
)


def after_attempt(
    connection: Connection, run_id: str, failure: Failure, *, tried_at: datetime, now: datetime
) -> tuple[Waiting, bool]:
    """What the run waits for after an attempt in vain, and whether that is to be stored. Raises NotFoundError."""
    row = connection.execute(OF_RUN, {"run_id": run_id}).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"there is no run {run_id}")
    before = to_waiting(row["waiting"])
    others = [each for stored in connection.execute(AT_WORK).scalars() if (each := to_waiting(stored)) is not None]
    waiting = waiting_after(before, failure, others=others, tried_at=tried_at, now=now)
    return waiting, row["state"] is RunState.OPEN and is_news(waiting, before)


def store(connection: Connection, run_id: str, waiting: Waiting) -> None:
    connection.execute(UPDATE_RUN, {"of_run": run_id, "waiting": waiting})
