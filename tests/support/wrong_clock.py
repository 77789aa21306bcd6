"""Programs whose clock is wrong, by a library that the dynamic linker loads before all others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def wrong_clock(ahead_s: int) -> Mapping[str, str]:
    """The environment of a program whose wall clock is so many seconds ahead; its other clocks run as they should."""
    if not ahead_s:
        return {}
    library = libraries()[0]
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{ahead_s:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def libraries() -> list[Path]:
    """Where Debian puts it; its variant for threads, since our programs have some."""
    return list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
