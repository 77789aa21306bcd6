"""Time for retries that passes only by sleeping."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.inference.retrying import Retrying


@dataclass
class RetryClock:
    now_s: float = 0.0
    pauses_s: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)
        self.now_s += pause_s

    def retrying(self, *, luck: float = 0.0, budget_s: float = 60.0) -> Retrying:
        """luck: how much of the jitter shortens each delay."""
        return Retrying(
            first_s=0.1, longest_s=2.0, budget_s=budget_s, now=self.now, sleep=self.sleep, random=lambda: luck
        )
