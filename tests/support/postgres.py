"""A PostgreSQL of the tests' own in a temporary folder: started by the first test that asks, ended with the session."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from sqlalchemy import NullPool, create_engine

from orchestrator.storage.schema import upgrade_schema
from orchestrator.storage.tables import metadata
from tests.support.needs import postgresql_programs
from tests.support.programs import free_ports

START_TIMEOUT_S: Final = 60
# One for all tests, emptied for each: a new database, or a copy of one, takes PostgreSQL half a second.
DATABASE: Final = "trireel"
EMPTY_TABLES: Final = f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)} RESTART IDENTITY"
# Nothing here has to outlive the machine, but what was committed outlives the server: commits stay synchronous.
OPTIONS: Final = "-c fsync=off -c full_page_writes=off -c max_connections=60"


@dataclass(slots=True)
class PostgresServer:
    """It trusts whoever reaches 127.0.0.1:`port`."""

    programs: Path
    folder: Path
    port: int

    def url(self, *, port: int | None = None, database: str = DATABASE) -> str:
        """Of the tests' database or another, in SQLAlchemy's form. port: of a proxy in front of the server."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{port or self.port}/{database}"

    def execute(self, sql: str, *, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """As the superuser, outside transactions."""
        with self._connect(database) as connection, connection.execute(sql.encode()) as cursor:
            return cursor.fetchall() if cursor.description else []

    def copy_rows(self, table: str, target: str) -> None:
        """From the tests' database into another one, whose table may lack columns, or be missing."""
        named = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
        columns = ", ".join(f'"{row[0]}"' for row in self.execute(named, database=target))
        if not columns:
            return
        with (
            self._connect(DATABASE) as source,
            self._connect(target) as sink,
            source.cursor().copy(f"COPY (SELECT {columns} FROM {table}) TO STDOUT".encode()) as rows,
            sink.cursor().copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copied,
        ):
            for piece in rows:
                copied.write(piece)

    def _connect(self, database: str) -> Any:
        import psycopg

        conninfo = f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"
        return psycopg.connect(conninfo, autocommit=True)

    def empty(self) -> None:
        """The tests' database, before each that uses it."""
        self.execute(EMPTY_TABLES)

    def end_connections(self) -> int:
        """Have the server end every connection to the tests' database; how many there were."""
        sql = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{DATABASE}'"
        return len(self.execute(sql, database="postgres"))

    def initialize(self) -> None:
        self._run(
            "initdb",
            "--no-sync",
            "--no-instructions",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
        )

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 {OPTIONS}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "--wait", f"--timeout={START_TIMEOUT_S}", f"--log={log}", f"--options={options}", "start")

    def crash(self) -> None:
        """Stop without a word to anybody; the next start recovers."""
        self._run("pg_ctl", "--wait", "--mode=immediate", "stop")

    def kill(self) -> int:
        """SIGKILL to the server and all its processes; the pid it had. The next start recovers."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        server = psutil.Process(pid)
        # Stopped first, so that none of its processes is replaced while the others are killed.
        server.suspend()
        processes = [server, *server.children()]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=START_TIMEOUT_S)
        return pid

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), f"--pgdata={self.folder / 'data'}", *arguments]
        # A server inherits what it is started with, so its output goes nowhere that somebody waits for the end of.
        with (self.folder / "commands.log").open("ab") as log:
            if subprocess.run(command, stdout=log, stderr=log, user=_owner(), cwd=self.folder, check=False).returncode:
                raise RuntimeError(f"{program} failed:\n{self._told()}")

    def _told(self) -> str:
        logs = (self.folder / name for name in ("commands.log", "log"))
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())


@contextmanager
def open_postgres() -> Iterator[PostgresServer]:
    programs = postgresql_programs()
    assert programs is not None, "say @pytest.mark.needs('postgresql')"
    folder = Path(tempfile.mkdtemp(prefix="trireel-postgres-"))
    if (owner := _owner()) is not None:
        shutil.chown(folder, owner)
    (port,) = free_ports(1)
    server = PostgresServer(programs, folder, port)
    try:
        server.initialize()
        server.start()
        try:
            _make_database(server)
            yield server
        finally:
            server.crash()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_of_session() -> Iterator[PostgresServer]:
    with open_postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_of_session: PostgresServer) -> PostgresServer:
    """Its tables are empty."""
    postgres_of_session.empty()
    return postgres_of_session


def _make_database(server: PostgresServer) -> None:
    server.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
    with create_engine(server.url(), poolclass=NullPool).begin() as connection:
        upgrade_schema(connection)


def _owner() -> str | None:
    """PostgreSQL refuses to run as root; Debian's package makes a user for it."""
    return pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
