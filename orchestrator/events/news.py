"""What processes tell each other over Redis: one JSON message on one channel."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from orchestrator.core.progress import ProgressShare

# Another number for each form that older versions would misread: on another channel they do not hear it.
FORM: Final = 1
# Larger ones are not ours.
MOST_BYTES: Final = 1024 * 1024
# More ids than this are rung as "everything".
MOST_IDS: Final = 500

Id = Annotated[str, msgspec.Meta(max_length=200)]


class News(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """origin: of the process that tells. ids: jobs and runs to ring; rings_all: everything may be new instead."""

    origin: Id
    ids: Annotated[tuple[Id, ...], msgspec.Meta(max_length=MOST_IDS)] = ()
    rings_all: bool = False
    shares: tuple[ProgressShare, ...] = ()


DECODER: Final = msgspec.json.Decoder(News)


def channel_of(database: int) -> str:
    """Of an installation: Redis numbers its databases, but its channels know nothing of them."""
    return f"trireel:{database}:news:{FORM}"


def to_wire(news: News) -> bytes:
    return msgspec.json.encode(news)


def from_wire(message: bytes) -> News:
    """Raises msgspec.MsgspecError for what is no news."""
    if len(message) > MOST_BYTES:
        raise msgspec.ValidationError(f"{len(message)} bytes are too many")
    try:
        return DECODER.decode(message)
    except RecursionError as exc:
        raise msgspec.ValidationError("nested too deeply") from exc
