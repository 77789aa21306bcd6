"""When a server that does not answer counts as one that hangs."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.inference.connection import CallCount
from orchestrator.inference.hang_watch import HangWatch

QUESTION_S = 5.0


@dataclass
class Server:
    """answers: whether it lives, question by question, the last one for ever; no answer takes 5 s."""

    answers: list[bool]
    calls: CallCount = field(default_factory=CallCount)
    now_s: float = 0.0
    asked: int = 0

    async def is_live(self) -> bool:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        self.now_s += 0 if answer else QUESTION_S
        return answer

    def watch(self) -> HangWatch:
        return HangWatch(self.calls, self.is_live, limit_s=15, now=lambda: self.now_s)


async def test_a_server_whose_calls_are_answered_is_not_asked() -> None:
    server = Server([False])
    watch = server.watch()
    for _ in range(100):
        server.calls.answered += 1
        server.now_s += 1
        assert not await watch.is_hung()
    assert server.asked == 0


async def test_a_server_that_nobody_calls_is_left_alone() -> None:
    server = Server([False], calls=CallCount(answered=3, unanswered=2))
    watch = server.watch()
    for _ in range(100):
        server.now_s += 1
        assert not await watch.is_hung()
    assert server.asked == 0


async def test_a_server_that_answers_nothing_at_all_hangs_after_the_limit() -> None:
    server = Server([False])
    watch = server.watch()
    server.calls.unanswered += 1
    looks = [await watch.is_hung() for _ in range(3)]
    assert (looks, server.now_s) == ([False, False, True], 15)


async def test_a_busy_server_that_says_it_lives_is_not_killed() -> None:
    server = Server([False, False, True, False, False, False])
    watch = server.watch()
    server.calls.unanswered += 1
    looks = [await watch.is_hung() for _ in range(3)]
    server.calls.unanswered += 1
    looks += [await watch.is_hung() for _ in range(3)]
    assert looks == [False, False, False, False, False, True]


async def test_one_answered_call_ends_the_suspicion() -> None:
    server = Server([False])
    watch = server.watch()
    server.calls.unanswered += 1
    looks = [await watch.is_hung() for _ in range(2)]
    server.calls.answered += 1
    looks += [await watch.is_hung()]
    server.calls.unanswered += 1
    looks += [await watch.is_hung() for _ in range(3)]
    assert looks == [False, False, False, False, False, True]
