"""Random ids: 128 bits as short text that fits into a URL, with a prefix that says of what."""

from __future__ import annotations

import secrets
from typing import Final, Literal

ID_BYTES: Final = 16


def new_id(prefix: Literal["vid", "run", "job", "dir"]) -> str:
    return f"{prefix}_{secrets.token_urlsafe(ID_BYTES)}"
