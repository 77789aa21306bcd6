from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from orchestrator.errors import ContractError, TrireelError, TritonTimeoutError, TritonUnavailableError
from orchestrator.inference.retrying import Retrying


@dataclass
class Clock:
    """Time that passes only by sleeping."""

    now_s: float = 0.0
    pauses_s: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)
        self.now_s += pause_s


@dataclass
class Server:
    """Fails with each error in turn, the last one for ever; None is an answer."""

    outcomes: list[TrireelError | None]
    asked: int = 0

    async def answer(self) -> str:
        outcome = self.outcomes[min(self.asked, len(self.outcomes) - 1)]
        self.asked += 1
        if outcome is not None:
            raise outcome
        return "answer"


def retrying(clock: Clock, *, luck: float = 0.0, budget_s: float = 60.0) -> Retrying:
    return Retrying(
        first_s=0.1, longest_s=2.0, budget_s=budget_s, now=clock.now, sleep=clock.sleep, random=lambda: luck
    )


async def test_a_busy_server_is_asked_again_with_growing_delays() -> None:
    clock, codes = Clock(), []
    server = Server([TritonUnavailableError("away")] * 6 + [TritonTimeoutError("slow"), None])
    answer = await retrying(clock).run(server.answer, on_retry=lambda exc: codes.append(exc.code))
    assert answer == "answer"
    assert clock.pauses_s == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert codes == ["triton_unavailable"] * 6 + ["triton_timeout"]


async def test_jitter_shortens_a_delay_by_at_most_a_half() -> None:
    clock = Clock()
    server = Server([TritonUnavailableError("away"), None])
    await retrying(clock, luck=1.0).run(server.answer, on_retry=lambda exc: None)
    assert clock.pauses_s == pytest.approx([0.05])


async def test_what_cannot_succeed_is_asked_once() -> None:
    server = Server([ContractError("wrong shape")])
    with pytest.raises(ContractError, match="wrong shape"):
        await retrying(Clock()).run(server.answer, on_retry=lambda exc: None)
    assert server.asked == 1


async def test_the_last_error_leaves_when_the_budget_is_used_up() -> None:
    clock = Clock()
    server = Server([TritonUnavailableError("away")])
    with pytest.raises(TritonUnavailableError, match="away"):
        await retrying(clock, budget_s=10).run(server.answer, on_retry=lambda exc: None)
    assert 8 < clock.now_s <= 10
