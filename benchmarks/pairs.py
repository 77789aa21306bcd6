"""Two things measured by turns, A B A B, so that what disturbs the machine disturbs both."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.machine import StealMeter

PAIRS: Final = 5
# A pair of which the neighbours took more is measured again.
MOST_STEAL: Final = 0.10
MOST_PAIRS: Final = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took: frames done, wall and CPU seconds of all processes involved."""

    frames: int
    wall_s: float
    cpu_s: float

    @property
    def cpu_ms_per_frame(self) -> float:
        return 1000 * self.cpu_s / self.frames

    @property
    def wall_ms_per_frame(self) -> float:
        return 1000 * self.wall_s / self.frames


@dataclass(frozen=True, slots=True)
class Pairs:
    """costs: of the reference and of ours, pair by pair. disturbed: pairs that were measured again."""

    costs: tuple[tuple[Cost, Cost], ...]
    disturbed: int

    def cpu_ratios(self) -> list[float]:
        """Reference / ours, per frame: 1 where ours costs no more, 0.5 where it costs twice as much."""
        return [reference.cpu_ms_per_frame / ours.cpu_ms_per_frame for reference, ours in self.costs]

    def wall_ratios(self) -> list[float]:
        """As `cpu_ratios`, of wall time."""
        return [reference.wall_ms_per_frame / ours.wall_ms_per_frame for reference, ours in self.costs]

    def beside(self) -> dict[str, object]:
        """What is printed beside the ratio."""
        return {
            "CPU ratio": statistics.median(self.cpu_ratios()),
            "wall ratio": statistics.median(self.wall_ratios()),
            "reference CPU ms/frame": statistics.median(reference.cpu_ms_per_frame for reference, _ in self.costs),
            "our CPU ms/frame": statistics.median(ours.cpu_ms_per_frame for _, ours in self.costs),
            "our frames/s": statistics.median(1000 / ours.wall_ms_per_frame for _, ours in self.costs),
            "pairs": len(self.costs),
            "disturbed pairs": self.disturbed,
        }


def measure_pairs(reference: Callable[[], Cost], ours: Callable[[], Cost], *, pairs: int = PAIRS) -> Pairs:
    """Measure both `pairs` times by turns; disturbed pairs again, up to three times as many in all."""
    costs: list[tuple[Cost, Cost]] = []
    disturbed: list[tuple[Cost, Cost]] = []
    steal = StealMeter()
    while len(costs) < pairs:
        steal.read()
        pair = reference(), ours()
        share = steal.read()
        if share <= MOST_STEAL:
            costs.append(pair)
            continue
        disturbed.append(pair)
        sys.stderr.write(f"  a pair is measured again: {share:.0%} of the CPU went to others\n")
        if len(costs) + len(disturbed) >= MOST_PAIRS * pairs:
            # Better told as it is than measured for ever; the row says how many pairs are of this kind.
            costs.extend(disturbed[: pairs - len(costs)])
    return Pairs(tuple(costs), len(disturbed))
