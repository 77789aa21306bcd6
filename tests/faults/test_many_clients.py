"""Followers in numbers: some never read, some lose their connection again and again."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import urlsplit

import pytest

from orchestrator.client.event_stream import EventStreamParser
from tests.faults import process_tree
from tests.faults.conftest import OpenTrial
from tests.faults.gathering import gather_rows
from tests.faults.served_models import CROWD
from tests.faults.topology import PLAIN, Role
from tests.faults.trial import Trial
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, QuietServer, Work

pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(240)]

READERS: Final = 180
SILENT: Final = 20
# Beside its work a server must not hold what silent clients have not read: each is owed ten megabytes.
CROWDED: Final = Work(model=CROWD)
MOST_GROWTH_MB: Final = 400.0
P99_LAG_S: Final = 2.0
STOP_LIMIT_S: Final = 10.0
READ_TIMEOUT_S: Final = 120.0
FOLLOWERS_CUT: Final = 8


def test_reconnects_at_random_cuts_tell_every_event_once(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(PLAIN, seed) as trial:
        fault = trial.faults.plan("connections of followers are cut at random events")
        job_ids = [trial.submit(work, cuts=Random(seed)) for work in (ALL_FRAMES, EVERY_OTHER)]
        for number in range(FOLLOWERS_CUT):
            trial.follow(job_ids[number % 2], cuts=Random(seed + number))
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        trial.cluster.kill(Role.API)
        trial.cluster.start(Role.API)
        trial.wait_for_ends()
        cuts = sum(follower.cuts_made for follower in trial.followers)
        fault.fired(f"{cuts} connections")
        assert cuts >= FOLLOWERS_CUT


@pytest.mark.thorough
@pytest.mark.alone
def test_silent_clients_cost_neither_memory_nor_the_others_a_moment_nor_a_stop(
    trial_on: OpenTrial, quiet: QuietServer, seed: int
) -> None:
    quiet.undisturbed(CROWDED)
    with trial_on(PLAIN, seed) as trial, ExitStack() as silent:
        fault = trial.faults.plan(f"{SILENT} of {SILENT + READERS} clients never read")
        job_id = trial.submit(CROWDED)
        for _ in range(SILENT):
            silent.enter_context(silent_client(trial.cluster.url, job_id))
        rss_mb, lags_s = asyncio.run(follow_all(trial, job_id))
        stuck = stuck_connections(trial.cluster.url)
        assert stuck >= SILENT, f"{stuck} clients leave something unread"
        assert rss_mb < MOST_GROWTH_MB
        assert sorted(lags_s)[int(0.99 * len(lags_s))] < P99_LAG_S
        began_s = time.monotonic()
        assert trial.cluster.stop(Role.API, timeout_s=STOP_LIMIT_S) == 0
        fault.fired(
            f"{rss_mb:.0f} MB more, {max(lags_s):.2f} s late at most, {time.monotonic() - began_s:.1f} s to stop"
        )
        trial.cluster.start(Role.API)


def silent_client(url: str, job_id: str) -> socket.socket:
    """Asks for every box of a job, and reads none of them."""
    client = socket.socket()
    # The smallest that the kernel gives, so that what is not read stays with the server.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    parts = urlsplit(url)
    client.connect((parts.hostname, parts.port))
    client.sendall(f"GET /v1/jobs/{job_id}/events?boxes=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


def stuck_connections(url: str) -> int:
    """How many connections of the server have bytes that the other side does not take."""
    port = urlsplit(url).port
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    # local address, remote address, state, bytes to be sent and to be read.
    fields = (line.split()[1:5] for line in lines)
    return sum(
        int(local.split(":")[1], 16) == port and int(queue.split(":")[0], 16) > 0 for local, _, _, queue in fields
    )


async def follow_all(trial: Trial, job_id: str) -> tuple[float, list[float]]:
    """By how many MB the server grew while `READERS` followed, and how late each event reached each of them."""
    pid = trial.cluster.pids(Role.API)[0]
    before_mb = process_tree.resident_mb(pid)
    heard = await asyncio.gather(*(read_all(trial.cluster.url, job_id) for _ in range(READERS)))
    grown_mb = process_tree.resident_mb(pid) - before_mb
    rows = await asyncio.to_thread(gather_rows, trial.cluster.open_to_read())
    made_at = {row["id"]: row["created_at"].replace(tzinfo=UTC).timestamp() for row in rows.events}
    joined_at = min(at for events in heard for at in events.values())
    lags_s = [at - max(made_at[event_id], joined_at) for events in heard for event_id, at in events.items()]
    assert len({frozenset(events) for events in heard}) == 1, "readers were told different events"
    return grown_mb, lags_s


async def read_all(url: str, job_id: str) -> dict[int, float]:
    """When each durable event came, by its id, in seconds of the wall clock."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET /v1/jobs/{job_id}/events HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    parser, came_at = EventStreamParser(), {}
    async with asyncio.timeout(READ_TIMEOUT_S):
        await reader.readuntil(b"\r\n\r\n")
        while piece := await reader.read(65536):
            for event in parser.feed(piece):
                if event.kind != "progress":
                    came_at[int(event.last_event_id)] = datetime.now(UTC).timestamp()
                    assert json.loads(event.data)["job_id"] == job_id
    writer.close()
    return came_at
