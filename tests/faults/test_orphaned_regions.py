"""What a server that was killed leaves in shared memory, and what is not its successor's to remove."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.topology import EMBEDDED, Role
from tests.faults.works import ALL_FRAMES
from tests.support.private_mounts import private_mounts

pytestmark = [pytest.mark.needs("triton"), pytest.mark.needs("private_mounts"), pytest.mark.timeout(120)]

SHARED_MEMORY: Final = Path("/dev/shm")
ROOM: Final = 256 * 2**20


def dead_pid() -> int:
    """Of a process that has just ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_start_removes_the_regions_of_the_dead_and_no_others(trial_on: OpenTrial, seed: int) -> None:
    with private_mounts({SHARED_MEMORY: ROOM}) as mounts, trial_on(EMBEDDED, seed, mounts=mounts) as trial:
        fault = trial.faults.plan("regions without an owner")
        trial.submit(ALL_FRAMES)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        shared_memory = mounts.seen(SHARED_MEMORY)
        killed_pid = trial.cluster.kill(Role.API)
        orphans = [path.name for path in shared_memory.glob(f"trireel_{killed_pid}_*")]
        # The second's pid has somebody else by now, as is usual in containers.
        orphans += [f"trireel_{dead_pid()}_0123abcd", f"trireel_{os.getpid()}_0123abcd"]
        # Of a process in another container, which holds its lock, and of another program.
        others = [f"trireel_{dead_pid()}_4567abcd", "somebody_elses"]
        for name in (*orphans[1:], *others):
            (shared_memory / name).write_bytes(b"x")
        with (shared_memory / others[0]).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            trial.cluster.start(Role.API)
        names = {path.name for path in shared_memory.iterdir()}
        assert names & set(orphans) == set()
        assert set(others) <= names
        fault.fired(", ".join(orphans))
        assert len(orphans) == 3, "the server that was killed left none"
