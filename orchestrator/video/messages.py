"""What orchestrator, decoder parent and decoder children say to each other: one JSON object a packet.

A child decodes hostile files, so what it says is checked field by field before anything uses it.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from orchestrator.core.types import IndexReport, VideoHeader

Message = TypeVar("Message")

# A Unix socket takes packets of about 200 KB; nothing said here comes near.
MAX_MESSAGE_BYTES: Final = 64 * 1024
LARGEST_INT: Final = 2**63
# How a child writes an index into memory: all time stamps, then all key flags.
STAMP_BYTES: Final = 8
INDEX_BYTES_PER_FRAME: Final = STAMP_BYTES + 1


class MessageError(Exception):
    """A packet that is no message of the kinds expected."""


# Orchestrator to decoder parent, and back.


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork child number `child`; descriptors travel along: its socket, the file, the slot region."""

    child: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Kill:
    child: int


@dataclass(frozen=True, slots=True)
class Spawned:
    child: int
    pid: int


@dataclass(frozen=True, slots=True)
class Killed:
    """The signal is sent; `Ended` follows when the child is dead."""

    child: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The child is dead and reaped. signal: what killed it, 0 where it ended by itself with `exit_code`.

    was_started: False where there was no process to be had, and there never was a child.
    """

    child: int
    exit_code: int
    signal: int
    was_started: bool = True


# Orchestrator to child.


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildLimits:
    """See `VideoLimits`."""

    max_duration_s: float
    max_frame_pixels: int
    max_fps: float
    max_frames: int


@dataclass(frozen=True, slots=True)
class ReadHeader:
    limits: ChildLimits


@dataclass(frozen=True, slots=True)
class MakeIndex:
    """Comes with memory for `max_frames`: int64 time stamps, and behind room for all of them one byte a key flag."""

    limits: ChildLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSegment:
    """Comes with a memory descriptor that holds time stamps, int64, ascending: the wanted ones, then the short cuts.

    wanted_frames: number of the former. entries: ticks to enter at, best first; the start of the file comes last by
    itself. is_timed: False where wanted are positions in output order. slot_bytes: size of a slot. batch_frames: most
    frames a batch.
    """

    number: int
    wanted_frames: int
    entries: tuple[int, ...]
    is_timed: bool
    imgsz: int
    stride: int
    batch_frames: int
    slot_bytes: int
    max_frame_pixels: int


@dataclass(frozen=True, slots=True)
class Fill:
    """The slot belongs to the child until it says `BatchFilled` or `SegmentEnded`, or is dead."""

    slot: int


# Child to orchestrator.


@dataclass(frozen=True, slots=True)
class Alive:
    """Work goes on, though there is nothing to show yet."""


@dataclass(frozen=True, slots=True)
class HeaderRead:
    header: VideoHeader


@dataclass(frozen=True, slots=True)
class IndexMade:
    """The arrays lie in the memory that came with the request. time_base: seconds per tick, as a fraction."""

    report: IndexReport
    time_base_num: int
    time_base_den: int
    is_timed: bool


@dataclass(frozen=True, slots=True)
class BatchFilled:
    """The slot holds a batch. positions: in the list of wanted frames, one a row. source_*: of the upright frames."""

    slot: int
    positions: tuple[int, ...]
    source_w_px: int
    source_h_px: int


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """No more batches come; the child holds no slot any more. entry_pts: the entry that worked."""

    entry_pts: int | None
    frame_errors: int
    decoding_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The file cannot be used. code: of a VideoError."""

    code: str
    message: str


def to_wire(message: object) -> bytes:
    """One packet."""
    if not is_dataclass(message) or isinstance(message, type):
        raise TypeError(f"{message!r} is no message")
    return json.dumps({"kind": type(message).__name__, **asdict(message)}, separators=(",", ":")).encode()


def from_wire(packet: bytes, *kinds: type[Message]) -> Message:
    """The message in a packet, which must be of one of `kinds`. Raises MessageError."""
    try:
        body = json.loads(packet)
    except ValueError as exc:
        raise MessageError("a packet is no JSON") from exc
    if not isinstance(body, dict):
        raise MessageError("a packet is no JSON object")
    kind = body.pop("kind", None)
    for expected in kinds:
        if expected.__name__ == kind:
            return _build(expected, body)
    raise MessageError(f"a packet of kind {kind!r} came, not {' or '.join(each.__name__ for each in kinds)}")


def _build(kind: type[Message], body: Mapping[str, Any]) -> Message:
    hints = _hints(kind)  # type: ignore[arg-type]  # mypy takes no class for hashable
    if hints.keys() != body.keys():
        raise MessageError(f"{kind.__name__} has the fields {sorted(body)}, not {sorted(hints)}")
    return kind(**{name: _checked(body[name], hint) for name, hint in hints.items()})


@cache
def _hints(kind: type[object]) -> Mapping[str, Any]:
    """Types of the fields of a kind; resolving them takes longer than all the rest of reading a message."""
    return get_type_hints(kind)


def _checked(value: Any, hint: Any) -> Any:
    """The value as its type hint wants it; JSON has no tuples and writes 1.0 as 1.0 but 1 as 1."""
    if is_dataclass(hint) and isinstance(value, dict):
        return _build(cast(type[object], hint), value)
    origin = get_origin(hint)
    if origin in (types.UnionType, Union):
        return _checked_union(value, get_args(hint))
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(each, get_args(hint)[0]) for each in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and (isinstance(value, bool) or not isinstance(value, int) or abs(value) >= LARGEST_INT):
        raise MessageError(f"{value!r} is no 64-bit integer")
    if hint is type(None) and value is None:
        return None
    if hint in (int, str, bool) and isinstance(value, hint):
        return value
    raise MessageError(f"{value!r} is no {hint}")


def _checked_union(value: Any, hints: tuple[Any, ...]) -> Any:
    if value is None and type(None) in hints:
        return None
    return _checked(value, next(hint for hint in hints if hint is not type(None)))
