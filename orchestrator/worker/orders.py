"""What a worker and its listener say to each other."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

# Single bytes over the socket between them. Of the listener: it takes rings from here on; it took one.
LISTENS: Final = b"l"
RANG: Final = b"r"
# Of the worker: the ring may be let go.
FOUND_NOTHING: Final = b"n"


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """From the worker, as JSON. redis_url: may hold a password, so it is no argument that others see."""

    worker_id: str
    redis_url: str
    log_format: Literal["text", "json"]
    log_level: Literal["debug", "info", "warning", "error"]
