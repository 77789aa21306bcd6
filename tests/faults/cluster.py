"""A deployment of real programs that a test starts, kills, pauses and starts again."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.faults import process_tree
from tests.faults.evidence import Footprint, Leftovers, Truth
from tests.faults.memory_calls import MemoryCalls
from tests.faults.topology import Role, Topology
from tests.support.needs import ROOT
from tests.support.postgres import PostgresServer
from tests.support.private_mounts import PrivateMounts
from tests.support.programs import LOOPBACK, Program, free_ports, running
from tests.support.redis import RedisServer
from tests.support.stack import is_answered
from tests.support.triton_program import TritonProgram
from tests.support.wrong_clock import wrong_clock

START_TIMEOUT_S: Final = 60.0
# A program's children notice its death by the kernel or by the end of a socket.
ORPHAN_TIMEOUT_S: Final = 5.0
# Lines that only a defect of ours writes: the tops of background tasks, and the web's last resort.
ALARMS: Final = ("failed unexpectedly", "unforeseen error", "Task exception was never retrieved", "Bus error")
DEPENDENCIES: Final = (Role.TRITON, Role.POSTGRESQL)
SLOTS_FREE: Final = "trireel_slots_free"
SMALL_SEGMENTS: Final = {"SEGMENT_FRAMES": "8", "DECODERS": "2", "BATCH_FRAMES": "4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a deployment stands on. triton_url, redis_url: of a proxy in front. mounts: every program runs in there.

    memory_calls: counts, in our programs, the calls that make shared memory. clocks: by how many seconds the clock of a
    program is ahead.
    """

    triton: TritonProgram | None = None
    triton_url: str | None = None
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    redis_url: str | None = None
    mounts: PrivateMounts | None = None
    memory_calls: MemoryCalls | None = None
    clocks: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Running:
    """A program of ours that runs. stack: its end closes it."""

    program: Program
    stack: ExitStack

    @property
    def pid(self) -> int:
        return self.program.process.pid


@dataclass(slots=True)
class Cluster:
    """folder: of its data and logs. settings: of every program, without TRIREEL_."""

    topology: Topology
    folder: Path
    model_repository: Path
    around: Surroundings
    settings: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    _ports: list[int] = field(default_factory=list)
    _changes: dict[str, list[tuple[float, bool | None]]] = field(default_factory=dict)
    _starts: int = 0
    _former: list[psutil.Process] = field(default_factory=list)
    _former_pids: set[int] = field(default_factory=set)
    _before: dict[str, Footprint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ports = free_ports(len(self.program_names))
        self.note(Role.TRITON, is_up=True)
        if self.topology.has_postgresql:
            self.note(Role.POSTGRESQL, is_up=True)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def seen_data_dir(self) -> Path:
        """The data directory as this process sees it."""
        return self.around.mounts.seen(self.data_dir) if self.around.mounts else self.data_dir

    @property
    def temporary_dir(self) -> Path:
        return self.folder / "tmp"

    def open_to_read(self) -> str:
        """URL of the database, or of a copy where SQLite's file lies in mounts of the programs' own."""
        if self.around.postgres is not None:
            return self.around.postgres.url()
        if self.around.mounts is None:
            return f"sqlite:///{self.data_dir}/trireel.db"
        # SQLite would follow the link that leads into the other mounts, and end up in ours.
        copies = self.folder / "copies"
        copies.mkdir(exist_ok=True)
        for name in ("trireel.db", "trireel.db-wal"):
            shutil.copyfile(self.seen_data_dir / name, copies / name)
        return f"sqlite:///{copies}/trireel.db"

    @property
    def url(self) -> str:
        return self.url_of(0)

    def url_of(self, number: int) -> str:
        return f"http://{LOOPBACK}:{self._ports[number]}"

    def _port_of(self, name: str) -> int:
        """Of an API's answers, and of a worker's metrics."""
        return self._ports[self.program_names.index(name)]

    @property
    def program_names(self) -> list[str]:
        return [*self.api_names, *self.worker_names]

    @property
    def api_names(self) -> list[str]:
        return [Role.API, *(f"{Role.API}-{number}" for number in range(1, self.topology.apis))]

    @property
    def worker_names(self) -> list[str]:
        return [f"{Role.WORKER}-{number}" for number in range(self.topology.workers)]

    def start(self, name: str, *, is_ready: bool = True) -> None:
        """Start a program; return when it is ready, or when it answers. Raises AssertionError with its log's end."""
        self.running[name] = running = self._launch(name)
        if name in self.api_names:
            url = self.url_of(self.api_names.index(name))
            running.program.wait_until(
                lambda: _answers(url, is_ready=is_ready), timeout_s=START_TIMEOUT_S, what="ready"
            )
            self.note(name, is_up=True)
        else:
            metrics_url = self._metrics_url(name)
            running.program.wait_until(lambda: is_answered(metrics_url), timeout_s=START_TIMEOUT_S, what="at work")

    def start_in_vain(self, name: str) -> tuple[int, str]:
        """Start a program that is to refuse; its exit code and what it wrote."""
        running = self._launch(name)
        self._former_pids.add(running.pid)
        code = running.program.process.wait(START_TIMEOUT_S)
        running.stack.close()
        return code, running.program.log.read_text(errors="replace")

    def kill(self, name: str) -> int:
        """SIGKILL to one program, and to nothing below it; the pid it had."""
        return self._end(name, lambda running: running.program.process.kill())

    def bury(self, name: str) -> int:
        """A program that kills itself just now; the pid it had."""
        return self._end(name, lambda running: None)

    def stop(self, name: str, *, timeout_s: float) -> int:
        """SIGTERM, and a wait. Returns its exit code. Raises TimeoutExpired."""
        process = self.running[name].program.process
        self._end(name, lambda running: process.terminate(), timeout_s=timeout_s)
        assert process.returncode is not None
        return process.returncode

    def remember_below(self, pid: int) -> None:
        """Before that process is killed: nothing below it may outlive the scenario."""
        self._former += process_tree.descendants(pid)

    def pause(self, name: str) -> int:
        """SIGSTOP to one program, and to nothing below it; its pid."""
        pid = self.running[name].pid
        os.kill(pid, signal.SIGSTOP)
        self.note(name, is_up=False)
        return pid

    def resume(self, name: str) -> None:
        os.kill(self.running[name].pid, signal.SIGCONT)
        self.note(name, is_up=True)

    @property
    def triton(self) -> TritonProgram:
        """The one that is no program of ours."""
        assert self.around.triton is not None, f"{self.topology.name} starts its own"
        return self.around.triton

    def kill_triton(self) -> int:
        """The pid it had."""
        self.note(Role.TRITON, is_up=False)
        return self.triton.kill()

    def stop_triton(self) -> None:
        self.note(Role.TRITON, is_up=False)
        self.triton.stop()

    def start_triton(self, *, serves: bool = True) -> None:
        """serves: whether it will have a model."""
        with self.starting(Role.TRITON, serves=serves):
            self.triton.start()

    def pids(self, role: Role) -> list[int]:
        """Processes of a role, alive just now."""
        own = [each.pid for each in self.running.values()]
        match role:
            case Role.API:
                return [self.running[name].pid for name in self.api_names if name in self.running]
            case Role.WORKER:
                return [self.running[name].pid for name in self.worker_names if name in self.running]
            case Role.LISTENER:
                return [pid for program in own for pid in process_tree.listeners(program)]
            case Role.DECODER:
                return [pid for program in own for pid in process_tree.decoders(program)]
            case Role.DECODER_PARENT:
                return [pid for program in own for pid in process_tree.decoder_parents(program)]
            case Role.TRITON:
                own_tritons = [pid for program in own for pid in process_tree.tritons(program)]
                return own_tritons or ([self.around.triton.pid] if self.around.triton else [])
            case Role.MODEL_STUB:
                return [pid for program in own for pid in process_tree.model_stubs(program)]
            case _:
                raise ValueError(f"{role} is not found by its pid")

    def note(self, name: str, *, is_up: bool | None) -> None:
        """The truth that readiness is held against, from now on. Note what falls before it does; None: it starts."""
        self._changes.setdefault(name, []).append((time.monotonic(), is_up))

    @contextmanager
    def starting(self, name: str, *, serves: bool = True) -> Iterator[None]:
        """Around what starts it: it may serve before the test knows."""
        self.note(name, is_up=None)
        yield
        self.note(name, is_up=serves)

    @property
    def truths(self) -> tuple[Truth, ...]:
        """Of the first API, which is the one that is probed, and of what it cannot work without."""
        concerned = [name for name in (Role.API, *DEPENDENCIES) if name in self._changes]
        return tuple(Truth(name=name.value, changes=tuple(self._changes[name])) for name in concerned)

    def note_footprints(self) -> None:
        """Of every program before the first job; one that was started again is held against these as well."""
        self._before = {name: self._footprint(name) for name in self.running}

    def leftovers(self) -> Leftovers:
        alive = process_tree.survivors(self._former, timeout_s=ORPHAN_TIMEOUT_S)
        comparable = [name for name in self._before if name in self.running]
        return Leftovers(
            before=tuple(self._before[name] for name in comparable),
            after=tuple(self._footprint(name) for name in comparable),
            orphans=tuple(process_tree.describe(process) for process in alive),
        )

    def former_regions(self) -> frozenset[str]:
        """Names in /dev/shm of programs that have ended; the next start removes them."""
        prefixes = tuple(f"trireel_{pid}_" for pid in self._former_pids)
        shared_memory = Path("/dev/shm")
        seen = self.around.mounts.seen(shared_memory) if self.around.mounts else shared_memory
        return frozenset(path.name for path in seen.iterdir() if path.name.startswith(prefixes))

    def logs(self) -> Iterator[tuple[str, str]]:
        """Names of all programs ever started, and what they wrote."""
        for path in sorted(self.folder.glob("*.log")):
            yield path.stem, path.read_text(errors="replace")

    def log_of(self, name: str) -> str:
        """What a program wrote in its first life."""
        return next(text for program, text in self.logs() if program.rpartition("-")[0] == name)

    def times_told(self, words: str) -> int:
        """In all logs so far."""
        return sum(text.count(words) for _, text in self.logs())

    def log_alarms(self) -> tuple[str, ...]:
        return tuple(
            f"{name}: {line.strip():.300}"
            for name, text in self.logs()
            for line in text.splitlines()
            if any(alarm in line for alarm in ALARMS)
        )

    def close(self) -> None:
        for name in list(self.running):
            running = self.running.pop(name)
            if running.program.process.poll() is None:
                os.kill(running.pid, signal.SIGCONT)
            running.stack.close()

    def _launch(self, name: str) -> Running:
        assert name not in self.running, f"{name} runs already"
        self._starts += 1
        for folder in (self.data_dir, self.temporary_dir):
            folder.mkdir(parents=True, exist_ok=True)
        verb = "worker" if name in self.worker_names else "serve"
        prefix = self.around.mounts.command_prefix if self.around.mounts else []
        command = [*prefix, sys.executable, "-m", "orchestrator", verb]
        stack = ExitStack()
        program = stack.enter_context(
            running(command, folder=self.folder, env=self._environment(name), name=f"{name}-{self._starts}")
        )
        return Running(program, stack)

    def _end(self, name: str, end: Callable[[Running], None], *, timeout_s: float = 10.0) -> int:
        ended = self.running[name]
        self.remember_below(ended.pid)
        self._former_pids.add(ended.pid)
        self.note(name, is_up=False)
        end(ended)
        ended.program.process.wait(timeout_s)
        del self.running[name]
        ended.stack.close()
        return ended.pid

    def _footprint(self, name: str) -> Footprint:
        pid = self.running[name].pid
        return Footprint(
            program=name,
            descriptors=psutil.Process(pid).num_fds(),
            children=len(process_tree.descendants(pid)),
            rss_mb=process_tree.resident_mb(pid),
            slots_free=self._slots_free(name),
        )

    def _slots_free(self, name: str) -> int:
        """As its metrics tell; 0 where it has none."""
        text = httpx.get(self._metrics_url(name), timeout=START_TIMEOUT_S, trust_env=False).text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name == SLOTS_FREE))

    def _metrics_url(self, name: str) -> str:
        if name in self.api_names:
            return f"{self.url_of(self.api_names.index(name))}/metrics"
        return f"http://{LOOPBACK}:{self._port_of(name)}/metrics"

    def _environment(self, name: str) -> dict[str, str]:
        own = {
            "HOST": LOOPBACK,
            "DATA_DIR": str(self.data_dir),
            "MODEL_REPOSITORY": str(self.model_repository),
            "TRITON_ENV": os.environ.get("TRIREEL_TRITON_ENV", str(ROOT / ".venv-triton")),
            **SMALL_SEGMENTS,
        }
        own["PORT" if name in self.api_names else "METRICS_PORT"] = str(self._port_of(name))
        if self.around.postgres is not None:
            own["DATABASE_URL"] = self.around.postgres.url()
        if self.around.redis is not None:
            own["REDIS_URL"] = self.around.redis_url or self.around.redis.url()
        if not self.topology.has_own_triton:
            triton = self.around.triton
            own["TRITON_URL"] = self.around.triton_url or (triton.grpc_url if triton else "")
        own |= self.settings
        memory_calls = self.around.memory_calls
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **(memory_calls.environment if memory_calls else {}),
            **wrong_clock(self.around.clocks.get(name, 0)),
            "TMPDIR": str(self.temporary_dir),
            **{f"TRIREEL_{variable}": value for variable, value in own.items()},
        }


def _answers(url: str, *, is_ready: bool) -> bool:
    try:
        status = httpx.get(f"{url}/readyz", timeout=10).status_code
    except httpx.TransportError:
        return False
    return status == 200 or not is_ready


@contextmanager
def open_cluster(
    topology: Topology, folder: Path, *, model_repository: Path, around: Surroundings, **settings: str
) -> Iterator[Cluster]:
    """All its programs, ready; nothing of them is left at the end. settings: by their names without TRIREEL_."""
    cluster = Cluster(topology, folder, model_repository, around, settings)
    try:
        for name in cluster.program_names:
            cluster.start(name)
        cluster.note_footprints()
        yield cluster
    finally:
        cluster.close()
