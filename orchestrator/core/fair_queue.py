"""Start-time fair queueing over runs, pure.

A run's virtual time is the frames it was given, each over the run's weight at that moment. The next segment goes to
the run with the smallest one, so over any stretch of time runs at work get frames in proportion to their weights, give
or take one segment each, and nobody starves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Contender:
    """A run that wants a segment. weight: the highest priority of its running jobs, 1..100."""

    run_id: str
    virtual_time: float
    weight: int


def fairest_first(contenders: Iterable[Contender]) -> list[Contender]:
    """By virtual time; those with equal ones keep their order."""
    return sorted(contenders, key=lambda contender: contender.virtual_time)


def charged(contender: Contender, frames: int) -> float:
    """The contender's virtual time after it was given `frames`."""
    return contender.virtual_time + frames / contender.weight


def refunded(contender: Contender, frames: int) -> float:
    """The contender's virtual time after it gave `frames` back unused."""
    return contender.virtual_time - frames / contender.weight


def joining(own: float, at_work: Collection[float]) -> float:
    """The virtual time at which a run joins those at work: their smallest, so it neither waits nor catches up.

    With nobody at work it keeps its own.
    """
    return min(at_work, default=own)
