"""What is asked every second, or for every segment, is answered from an index, however many rows there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Executable, event

from orchestrator.settings import StorageSettings
from orchestrator.storage import event_store, job_making, job_store, leases, moves, part_store, run_store, waits
from orchestrator.storage.engine import open_database
from tests.contract.scenario import START

OF_RUN = {"run_id": "run_1"}
OF_SEGMENT = {**OF_RUN, "number": 1, "attempt": 1}

STATEMENTS: dict[str, tuple[Executable, dict[str, object]]] = {
    "runs to plan": (run_store.RUNS_TO_PLAN, {}),
    "a run to finalize": (run_store.RUN_TO_FINALIZE, {}),
    "runs at work": (leases.CONTENDERS, {}),
    "their times": (moves.TIMES_AT_WORK, {}),
    "what they wait for": (waits.AT_WORK, {}),
    "the preferred segment": (leases.PREFERRED_SEGMENT, {**OF_RUN, "preferred": 2, "now": START}),
    "the first expired segment": (leases.FIRST_EXPIRED_SEGMENT, {**OF_RUN, "now": START}),
    "the first open segment": (leases.FIRST_OPEN_SEGMENT, OF_RUN),
    "all leased segments": (leases.REOPEN_ALL_SEGMENTS, {}),
    "the segment of a lease": (part_store.HELD_OR_DONE_SEGMENT, OF_SEGMENT),
    "a job that wants a run": (moves.WANTING_JOB, OF_RUN),
    "a queued job": (job_store.QUEUED_JOB, {}),
    "the next in the queue": (job_store.NEXT_QUEUED_JOBS, {"room": 1}),
    "jobs with a time limit": (job_store.LIMITED_JOBS, {}),
    "jobs being cancelled": (job_store.CANCELLING_JOBS, {}),
    "the run of a spec": (job_making.RUN_OF_SPEC, {"key": "k"}),
    "newer events of a job": (event_store.NEWER_OF_JOB, {"job_id": "j", **OF_RUN, "last_id": 1, "limit": 9}),
    "newer events of all jobs": (event_store.NEWER_OF_ALL_JOBS, {"last_id": 1, "limit": 9}),
    "parts of a run": (part_store.COMMITTED_SEGMENTS, {**OF_RUN, "after": -1, "from_frame": 0}),
}


def plan_of(connection: Connection, statement: Executable, parameters: dict[str, object]) -> list[str]:
    def explain(_connection: Any, _cursor: Any, sql: str, values: Any, _context: Any, _many: bool) -> tuple[str, Any]:
        return f"EXPLAIN QUERY PLAN {sql}", values

    event.listen(connection, "before_cursor_execute", explain, retval=True)
    try:
        result = connection.execute(statement, parameters)
        assert result.cursor is not None
        return [row[-1] for row in result.cursor.fetchall()]
    finally:
        event.remove(connection, "before_cursor_execute", explain)


@pytest.mark.parametrize("what", STATEMENTS)
async def test_no_table_is_read_whole(tmp_path: Path, what: str) -> None:
    settings = StorageSettings(
        database_url=f"sqlite:///{tmp_path}/trireel.db", data_dir=tmp_path, max_upload_bytes=1000
    )
    statement, parameters = STATEMENTS[what]
    async with open_database(settings) as database:
        plan = await database.write(lambda connection: plan_of(connection, statement, parameters))
    assert plan
    assert [step for step in plan if step.startswith("SCAN")] == []
