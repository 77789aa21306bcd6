"""A line of the table: what was measured, what it has to be, and whether it is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Bound(StrEnum):
    AT_LEAST = "at least"
    AT_MOST = "at most"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Target:
    bound: Bound
    value: float

    def is_met_by(self, value: float) -> bool:
        """A NaN meets nothing."""
        match self.bound:
            case Bound.AT_LEAST:
                return value >= self.value
            case Bound.AT_MOST:
                return value <= self.value
            case Bound.OVER:
                return value > self.value


def at_least(value: float) -> Target:
    return Target(Bound.AT_LEAST, value)


def at_most(value: float) -> Target:
    return Target(Bound.AT_MOST, value)


def over(value: float) -> Target:
    return Target(Bound.OVER, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """value: in `unit`, of which ratios have none; the median where `spread` has the least and the greatest.

    beside: what else was seen, by name; it decides nothing.
    """

    name: str
    value: float
    target: Target
    unit: str = ""
    spread: tuple[float, float] | None = None
    beside: dict[str, object] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        return self.target.is_met_by(self.value)

    def line(self) -> str:
        """`name  value  target  pass|FAIL`, then the spread and what else was seen."""
        value = f"{self.value:.3g} {self.unit}".strip()
        target = f"{self.target.bound} {self.target.value:g}"
        verdict = "pass" if self.is_met else "FAIL"
        rest = [f"{self.spread[0]:.3g}..{self.spread[1]:.3g}"] if self.spread else []
        rest += [f"{name} {_short(what)}" for name, what in self.beside.items()]
        return f"{self.name:24}  {value:>10}  {target:>14}  {verdict}  {', '.join(rest)}".rstrip()

    def document(self) -> dict[str, object]:
        """JSON's types only."""
        return {**asdict(self), "is_met": self.is_met}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Row:
        """The row that made a document, itself read from JSON."""
        spread, target = document["spread"], document["target"]
        return cls(
            name=document["name"],
            value=document["value"],
            target=Target(Bound(target["bound"]), target["value"]),
            unit=document["unit"],
            spread=None if spread is None else (spread[0], spread[1]),
            beside=document["beside"],
        )


def row_of_medians(
    name: str, values: Sequence[float], target: Target, *, unit: str = "", beside: dict[str, object] | None = None
) -> Row:
    """values: one of each repetition, at least one."""
    return Row(
        name=name,
        value=statistics.median(values),
        target=target,
        unit=unit,
        spread=(min(values), max(values)),
        beside=beside or {},
    )


def _short(what: object) -> str:
    return f"{what:.3g}" if isinstance(what, float) else str(what)
