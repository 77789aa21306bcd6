"""What a scenario leaves behind, as values: everything the checker judges by. Times are of this process's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

# JSON objects of the API and rows of the database, by member and column.
Fields = Mapping[str, Any]

SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
DELETED: Final = "deleted"
TERMINAL: Final = frozenset({SUCCEEDED, FAILED, CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFault:
    """hits: what each firing hit, in words."""

    name: str
    hits: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """What a quiet server made of the same work. lines: a canonical JSON line for each sampled frame."""

    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedJob:
    """A submit that was answered 2xx. ends: states it may end in, or DELETED. error_codes: it may fail with."""

    id: str
    undisturbed: Undisturbed
    ends: frozenset[str] = frozenset({SUCCEEDED})
    error_codes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldJob:
    """A job as the API tells of it at the end. answer: None where it answers 404.

    lines: its detections; () where it has not succeeded. status_after_end: of a stream asked for after its last event.
    is_whole: else only the answer was asked for, as of most of ten thousand.
    """

    answer: Fields | None
    lines: tuple[str, ...] = ()
    replay: tuple[ToldEvent, ...] = ()
    status_after_end: int | None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldEvent:
    kind: str
    id: int | None
    body: Fields
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One connection of a follower. after_id: the Last-Event-ID it sent, 0 for none."""

    after_id: int
    events: tuple[ToldEvent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedStream:
    """A job as a follower saw it, over as many connections as it took."""

    job_id: str
    connections: tuple[Connection, ...]

    @property
    def events(self) -> list[ToldEvent]:
        return [event for connection in self.connections for event in connection.events]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The database. part_sizes: number of candidates by run and segment. damage: what its own check complains of."""

    videos: Sequence[Fields] = ()
    runs: Sequence[Fields] = ()
    segments: Sequence[Fields] = ()
    jobs: Sequence[Fields] = ()
    events: Sequence[Fields] = ()
    part_sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    damage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """paths: of all files of the data directory but the database, the lock and the logs, relative, with slashes.

    result_frames: frame of each row of a run's Parquet file, by run. temporary: names in the programs' own TMPDIR.
    regions: names in /dev/shm that belong to programs of this scenario which have ended.
    """

    paths: frozenset[str] = frozenset()
    result_frames: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    temporary: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAnswer:
    """An answer of status 400 or more."""

    request: str
    status: int
    content_type: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A look at /healthz or /readyz. status: None where nobody answered."""

    path: str
    at_s: float
    took_s: float
    status: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Whether something was up, as the test made it: (time, is_up), oldest first. Before the first it was down.

    None is while it starts: it answers from some moment on, and only afterwards does the test know that it does.
    """

    name: str
    changes: tuple[tuple[float, bool | None], ...]

    def at(self, at_s: float) -> bool | None:
        return next((is_up for since_s, is_up in reversed(self.changes) if since_s <= at_s), False)

    def is_known(self, *, since_s: float, until_s: float) -> bool:
        """Whether it was the same all that time."""
        has_changed = any(since_s <= at_s <= until_s for at_s, _ in self.changes)
        return not has_changed and self.at(until_s) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Of one program. slots_free: of shared memory, for frames."""

    program: str
    descriptors: int
    children: int
    rss_mb: float
    slots_free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """footprints: of programs before the first job and at the end. orphans: processes that outlived their program."""

    before: tuple[Footprint, ...] = ()
    after: tuple[Footprint, ...] = ()
    orphans: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """told: by job. log_alarms: lines of logs that tell of a defect of ours."""

    seed: int
    faults: tuple[PlannedFault, ...] = ()
    accepted: tuple[AcceptedJob, ...] = ()
    told: Mapping[str, ToldJob] = field(default_factory=dict)
    streams: tuple[FollowedStream, ...] = ()
    rows: Rows = field(default_factory=Rows)
    files: Files = field(default_factory=Files)
    errors: tuple[ErrorAnswer, ...] = ()
    probes: tuple[Probe, ...] = ()
    truths: tuple[Truth, ...] = ()
    leftovers: Leftovers = field(default_factory=Leftovers)
    log_alarms: tuple[str, ...] = ()
