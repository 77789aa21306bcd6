"""The n-th call of a program that makes shared memory: it fails, or the program dies before it or after it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.counted_calls import Strike
from tests.support.needs import ROOT

INJECTED: Final = Path(__file__).parent / "injected"


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

    def has_struck(self) -> bool:
        return not self.order.exists()
