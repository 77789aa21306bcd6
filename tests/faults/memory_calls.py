"""The n-th call of a program that makes shared memory: it fails, or the program dies before it or after it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

from tests.faults.counted_calls import Strike
from tests.support.needs import ROOT

INJECTED: Final = Path(__file__).parent / "injected"
STRIKE_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class MemoryCalls:
    """order: a file that is there as long as a strike is to come; the program counts down in it."""

    order: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the program."""
        return {"PYTHONPATH": f"{INJECTED}{os.pathsep}{ROOT}", "FAULTS_MEMORY_ORDER": str(self.order)}

    def plan(self, number: int, strike: Strike) -> None:
        """Strike at the `number`-th call from now on."""
        planned = self.order.with_suffix(".planned")
        planned.write_text(f"{number} {strike.name}", encoding="ascii")
        planned.rename(self.order)

    def wait(self) -> None:
        """Until the call came. Raises TimeoutError."""
        deadline_s = time.monotonic() + STRIKE_TIMEOUT_S
        while self.order.exists():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"there was no such call in {STRIKE_TIMEOUT_S:g} s")
            Event().wait(POLL_S)
