"""Requests at fixed instants, whatever became of those before: `python -m benchmarks.open_loop`.

A process of its own, so that what it does itself is not measured as the server's. Reads a `LoadPlan` as JSON from
standard input and writes a `LoadReport` to standard output. A latency counts from the instant at which the request was
due: a server that stalls is charged for everybody who would have asked meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from orchestrator.client import AsyncClient, SubmitJob, TrireelError, ViewQuery

# What requests were given up after in the platform that this product replaces.
TIMEOUT_S: Final = 3.0
LEAD_S: Final = 0.2


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """working_ids: jobs whose status is asked, by turns. finished_id: whose detections are read.

    video_id, model: of the jobs that are submitted, each of a run of its own.
    """

    url: str
    video_id: str
    model: str
    working_ids: tuple[str, ...]
    finished_id: str
    requests: int
    requests_per_s: float


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """latencies_ms: by kind, of the requests that were answered. errors: answers that were none, in words."""

    latencies_ms: Mapping[str, list[float]]
    time_outs: int
    errors: list[str]


@dataclass(slots=True)
class _Tally:
    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    time_outs: int = 0
    errors: list[str] = field(default_factory=list)


Ask = Callable[[AsyncClient, LoadPlan, int], Awaitable[object]]


async def carry_out(plan: LoadPlan) -> LoadReport:
    """Ask everything when it is due, and wait for the last answer."""
    tally = _Tally()
    loop = asyncio.get_running_loop()
    async with AsyncClient(plan.url) as client:
        # What the client itself loads and makes on first use is no part of any request.
        for ask in KINDS.values():
            await ask(client, plan, plan.requests)
        async with asyncio.TaskGroup() as group:
            began_s = loop.time() + LEAD_S
            for number in range(plan.requests):
                due_s = began_s + number / plan.requests_per_s
                group.create_task(_ask_when_due(client, plan, number, due_s=due_s, tally=tally))
    return LoadReport(latencies_ms=tally.latencies_ms, time_outs=tally.time_outs, errors=tally.errors)


async def _ask_when_due(client: AsyncClient, plan: LoadPlan, number: int, *, due_s: float, tally: _Tally) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(due_s - loop.time())
    kind = list(KINDS)[number % len(KINDS)]
    try:
        async with asyncio.timeout_at(due_s + TIMEOUT_S):
            await KINDS[kind](client, plan, number)
    except TimeoutError:
        tally.time_outs += 1
    except TrireelError as exc:
        tally.errors.append(f"{kind}: {exc}")
    else:
        tally.latencies_ms.setdefault(kind, []).append(1000 * (loop.time() - due_s))


async def _submit(client: AsyncClient, plan: LoadPlan, number: int) -> None:
    """A job whose sampling nobody asked for yet: all that a submit does, with a new run, which then waits."""
    await client.submit(SubmitJob(video_id=plan.video_id, model=plan.model, every_nth=number + 2))


async def _status(client: AsyncClient, plan: LoadPlan, number: int) -> None:
    await client.job(plan.working_ids[number // len(KINDS) % len(plan.working_ids)])


async def _list(client: AsyncClient, plan: LoadPlan, number: int) -> None:
    await client.jobs()


async def _results(client: AsyncClient, plan: LoadPlan, number: int) -> None:
    """All frames of a short job, at a confidence of the asker's own."""
    async for _ in client.frames(plan.finished_id, view=ViewQuery(conf=0.05 + 0.9 * (number % 100) / 100)):
        pass


KINDS: Final[Mapping[str, Ask]] = {"submit": _submit, "status": _status, "list": _list, "results": _results}


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadPlan)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(carry_out(plan))))


if __name__ == "__main__":
    main()
