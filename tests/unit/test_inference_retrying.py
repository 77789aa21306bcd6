from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.errors import ContractError, TrireelError, TritonTimeoutError, TritonUnavailableError
from tests.support.retry_clock import RetryClock


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


async def test_a_busy_server_is_asked_again_with_growing_delays() -> None:
    clock, codes = RetryClock(), []
    server = Server([TritonUnavailableError("away")] * 6 + [TritonTimeoutError("slow"), None])
    answer = await clock.retrying().run(server.answer, on_retry=lambda exc: codes.append(exc.code))
    assert answer == "answer"
    assert clock.pauses_s == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert codes == ["triton_unavailable"] * 6 + ["triton_timeout"]


async def test_jitter_shortens_a_delay_by_at_most_a_half() -> None:
    clock = RetryClock()
    server = Server([TritonUnavailableError("away"), None])
    await clock.retrying(luck=1.0).run(server.answer, on_retry=lambda exc: None)
    assert clock.pauses_s == pytest.approx([0.05])


async def test_what_cannot_succeed_is_asked_once() -> None:
    server = Server([ContractError("wrong shape")])
    with pytest.raises(ContractError, match="wrong shape"):
        await RetryClock().retrying().run(server.answer, on_retry=lambda exc: None)
    assert server.asked == 1


async def test_the_last_error_leaves_when_the_budget_is_used_up() -> None:
    clock = RetryClock()
    server = Server([TritonUnavailableError("away")])
    with pytest.raises(TritonUnavailableError, match="away"):
        await clock.retrying(budget_s=10).run(server.answer, on_retry=lambda exc: None)
    assert 8 < clock.now_s <= 10


async def test_somebody_else_is_asked_without_a_pause_and_within_the_budget() -> None:
    clock = RetryClock()
    server = Server([TritonUnavailableError("away")] * 6 + [None])
    answer = await clock.retrying().run(
        server.answer, on_retry=lambda exc: None, is_another_left=lambda: server.asked % 3 != 0
    )
    assert answer == "answer"
    assert clock.pauses_s == pytest.approx([0.1, 0.2])


async def test_somebody_else_is_not_asked_after_the_budget() -> None:
    clock = RetryClock()

    async def take_a_minute() -> str:
        clock.now_s += 60.5
        raise TritonTimeoutError("slow")

    with pytest.raises(TritonTimeoutError):
        await clock.retrying(budget_s=60).run(take_a_minute, on_retry=lambda exc: None, is_another_left=lambda: True)
    assert clock.now_s == 60.5
