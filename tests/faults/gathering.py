"""Collecting the evidence once a scenario is quiet: from the API, the database and the files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

import httpx
import pyarrow.parquet as pq
from sqlalchemy import Connection, Engine, NullPool, Table, create_engine, event, select

from orchestrator.client.event_stream import EventStreamParser
from orchestrator.storage.part_codec import decode_part
from orchestrator.storage.tables import events, jobs, parts, runs, segments, videos
from tests.faults.evidence import SUCCEEDED, Fields, Files, Rows, ToldEvent, ToldJob
from tests.faults.recorded_http import canonical_lines

# Beside these a data directory holds videos, results and half uploads only.
OWN_FILES: Final = ("trireel.db", "lock", "identity", "logs/")
# ONNX Runtime makes it in the model's process, under the same name each time.
OTHERS_TEMPORARY: Final = frozenset({".ses"})
NOT_FOUND: Final = 404
PAGE: Final = 100


async def gather_job(http: httpx.AsyncClient, job_id: str) -> ToldJob:
    """What the API tells of one job that has ended."""
    answer = await http.get(f"/v1/jobs/{job_id}")
    if answer.status_code == NOT_FOUND:
        return ToldJob(answer=None)
    answer.raise_for_status()
    job = answer.json()
    lines: tuple[str, ...] = ()
    if job["state"] == SUCCEEDED:
        result = await http.get(f"/v1/jobs/{job_id}/detections", params={"format": "ndjson"})
        result.raise_for_status()
        lines = canonical_lines(result.text)
    if not job["is_terminal"]:
        return ToldJob(answer=job, lines=lines)
    replay = told_in((await http.get(f"/v1/jobs/{job_id}/events")).raise_for_status().content)
    last_id = max((each.id for each in replay if each.id is not None), default=0)
    after_end = await http.get(f"/v1/jobs/{job_id}/events", params={"last_event_id": last_id})
    return ToldJob(answer=job, lines=lines, replay=replay, status_after_end=after_end.status_code)


async def gather_list(http: httpx.AsyncClient) -> dict[str, ToldJob]:
    """How every job ended, from the list of them."""
    told: dict[str, ToldJob] = {}
    cursor: str | None = None
    while cursor is not None or not told:
        page = await http.get("/v1/jobs", params={"limit": PAGE} | ({"cursor": cursor} if cursor else {}))
        items, cursor = page.raise_for_status().json()["items"], page.json()["next_cursor"]
        told |= {job["id"]: ToldJob(answer=job, is_whole=False) for job in items}
        if not items:
            break
    return told


def told_in(stream: bytes) -> tuple[ToldEvent, ...]:
    """The events of a whole stream."""
    return tuple(
        ToldEvent(
            kind=each.kind,
            id=None if each.kind == "progress" else int(each.last_event_id),
            body=json.loads(each.data),
        )
        for each in EventStreamParser().feed(stream)
    )


def gather_rows(database_url: str) -> Rows:
    """All rows, and what the database itself says of its state."""
    engine = create_engine(database_url, poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        # The driver's own transactions would keep a reader from seeing one state of all tables.
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as connection:
        return Rows(
            videos=_rows(connection, videos),
            runs=_rows(connection, runs),
            segments=_rows(connection, segments),
            jobs=_rows(connection, jobs),
            events=_rows(connection, events),
            part_sizes={
                (row.run_id, row.segment): len(decode_part(row.body)) for row in connection.execute(select(parts))
            },
            damage=_damage(connection, engine),
        )


def gather_files(data_dir: Path, *, temporary_dir: Path | None = None, regions: Iterable[str] = ()) -> Files:
    paths = {path.relative_to(data_dir).as_posix(): path for path in data_dir.rglob("*") if path.is_file()}
    kept = {name: path for name, path in paths.items() if not name.startswith(OWN_FILES)}
    return Files(
        paths=frozenset(kept),
        result_frames={path.parent.name: _frames(path) for path in kept.values() if path.suffix == ".parquet"},
        temporary=_names(temporary_dir) - OTHERS_TEMPORARY if temporary_dir else frozenset(),
        regions=frozenset(regions),
    )


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


def _frames(path: Path) -> tuple[int, ...]:
    return tuple(pq.read_table(path, columns=["frame_index"]).column(0).to_pylist())


def _rows(connection: Connection, table: Table) -> list[Fields]:
    return [_plain(row) for row in connection.execute(select(table)).mappings()]


def _plain(row: Mapping[str, Any]) -> Fields:
    return {name: value.value if isinstance(value, Enum) else value for name, value in row.items()}


def _damage(connection: Connection, engine: Engine) -> tuple[str, ...]:
    if engine.dialect.name != "sqlite":
        return ()
    found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return tuple(line for line in found if line != "ok") + tuple(str(row) for row in dangling)
