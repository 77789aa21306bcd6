"""How long runs have waited for Triton or a model. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from orchestrator.core.fair_queue import joining
from orchestrator.core.records import Failure, Run, Waiting

# Waiting runs are tried every few seconds, by somebody: after such a pause nobody was at work in between.
LONGEST_PAUSE: Final = timedelta(minutes=2)
# Often enough to tell a pause by, and seldom enough to cost nothing.
NOTED_EVERY: Final = timedelta(seconds=30)


def waiting_after(
    before: Waiting | None, failure: Failure, *, others: Collection[Waiting], tried_at: datetime, now: datetime
) -> Waiting:
    """What a run waits for after one more attempt in vain, which began at `tried_at`.

    others: what other runs wait for. While many wait, each is tried seldom, and any of them tells of somebody at work.
    """
    goes_on = before is not None and tried_at - max(each.last_seen for each in (before, *others)) <= LONGEST_PAUSE
    since = before.since if before is not None and goes_on else now
    return Waiting(code=failure.code, message=failure.message, since=since, last_seen=now)


def is_news(waiting: Waiting, before: Waiting | None) -> bool:
    """Whether `waiting` is to be stored in the place of `before`: not for every attempt."""
    if before is None or (waiting.code, waiting.since) != (before.code, before.since):
        return True
    return waiting.last_seen - before.last_seen >= NOTED_EVERY


def joined(run: Run, at_work: Collection[float]) -> Run:
    """A run that nobody wanted until now, as it joins those at work. at_work: their virtual times."""
    return replace(run, virtual_time=joining(run.virtual_time, at_work), waiting=None)
