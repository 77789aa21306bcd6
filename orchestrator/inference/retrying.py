"""Asking again: exponential delays with jitter, up to a cap, within a budget."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from orchestrator.errors import TrireelError

Answer = TypeVar("Answer")

# Covers a restart of Triton with large models.
LONGEST_BUDGET_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """Delays grow from `first_s` to `longest_s` and are shortened by up to a half at random.

    budget_s: no attempt begins later than this after the first one.
    """

    first_s: float = 0.1
    longest_s: float = 2.0
    budget_s: float = LONGEST_BUDGET_S
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random

    async def run(
        self,
        attempt: Callable[[], Awaitable[Answer]],
        *,
        on_retry: Callable[[TrireelError], None],
        is_another_left: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """The first answer of `attempt`. Errors that are not retryable, and the last one, leave as they are.

        is_another_left: whether the next attempt asks somebody else, who need not be waited for.
        """
        began = self.now()
        delay_s = self.first_s
        while True:
            try:
                return await attempt()
            except TrireelError as exc:
                pause_s = 0.0 if is_another_left() else delay_s * (1 - self.random() / 2)
                if not exc.retryable or self.now() - began + pause_s > self.budget_s:
                    raise
                on_retry(exc)
            if pause_s:
                await self.sleep(pause_s)
                delay_s = min(2 * delay_s, self.longest_s)
