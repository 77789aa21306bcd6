"""Runs that cannot go on just now, so that nobody takes a turn for them in vain. Pure: the time is passed in."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Postponed:
    """Shared by all workers of a process."""

    _until_s: dict[str, float] = field(default_factory=dict)

    def postpone(self, run_id: str, *, until_s: float) -> None:
        self._until_s[run_id] = until_s

    def at(self, now_s: float) -> frozenset[str]:
        """The runs to leave aside at this moment."""
        self._until_s = {run_id: until_s for run_id, until_s in self._until_s.items() if until_s > now_s}
        return frozenset(self._until_s)
