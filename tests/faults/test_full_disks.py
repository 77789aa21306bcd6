"""Shared memory and the data directory without room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.topology import EMBEDDED, PLAIN, Role
from tests.faults.works import ALL_FRAMES, CLIP, EVERY_OTHER
from tests.support.private_mounts import private_mounts

pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(240)]

MIB: Final = 2**20
# Eight slots take 38 MiB, and Triton's Python backend the rest as it needs it.
ROOM_FOR_SLOTS: Final = 64 * MIB
FULL_S: Final = 3.0
STOP_TIMEOUT_S: Final = 10.0
SHARED_MEMORY: Final = Path("/dev/shm")


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A file that takes all the room there is, to the last byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            while _is_written(file.fileno(), bytes(size)):
                continue
    try:
        yield filler
    finally:
        filler.unlink()


def _is_written(descriptor: int, piece: bytes) -> bool:
    try:
        return os.write(descriptor, piece) == len(piece)
    except OSError:
        return False


@pytest.mark.needs("private_mounts")
def test_a_full_data_disk_refuses_uploads_and_jobs_go_on_when_there_is_room(
    trial_on: OpenTrial, tmp_path: Path, seed: int
) -> None:
    data_dir = tmp_path / PLAIN.name / "data"
    data_dir.mkdir(parents=True)
    with (
        private_mounts({data_dir: 24 * MIB}) as mounts,
        trial_on(PLAIN, seed, mounts=mounts, LEASE_S="2") as trial,
    ):
        fault = trial.faults.plan("no room in the data directory")
        for work in (ALL_FRAMES, EVERY_OTHER):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.1, 0.4))
        with filled(mounts.seen(data_dir)), trial.http() as http:
            answer = http.post("/v1/videos", content=CLIP.read_bytes())
            assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
            committed = trial.heard.frames_committed()
            trial.pass_time(FULL_S)
            fault.fired(f"{committed} frames were committed, {trial.heard.frames_committed()} {FULL_S:g} s later")


@pytest.mark.needs("private_mounts")
def test_a_server_without_room_for_its_slots_says_so_and_ends(trial_on: OpenTrial, tmp_path: Path, seed: int) -> None:
    with (
        private_mounts({SHARED_MEMORY: ROOM_FOR_SLOTS}) as mounts,
        trial_on(EMBEDDED, seed, mounts=mounts) as trial,
    ):
        fault = trial.faults.plan("no room in /dev/shm at the start")
        trial.submit(ALL_FRAMES)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        trial.cluster.stop(Role.API, timeout_s=STOP_TIMEOUT_S)
        with filled(mounts.seen(SHARED_MEMORY)):
            code, log = trial.cluster.start_in_vain(Role.API)
        # Ended by itself, with a sentence, and not by SIGBUS.
        assert code > 0
        assert "shared_memory_full" in log
        fault.fired(f"exit code {code}")
        trial.cluster.start(Role.API)


@pytest.mark.needs("private_mounts")
def test_shared_memory_that_fills_up_during_work_costs_no_frame(trial_on: OpenTrial, tmp_path: Path, seed: int) -> None:
    with (
        private_mounts({SHARED_MEMORY: ROOM_FOR_SLOTS}) as mounts,
        trial_on(EMBEDDED, seed, mounts=mounts) as trial,
    ):
        fault = trial.faults.plan("no room in /dev/shm during work")
        for work in (ALL_FRAMES, EVERY_OTHER):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.1, 0.4))
        with filled(mounts.seen(SHARED_MEMORY)) as filler:
            fault.fired(f"{filler.stat().st_size} bytes taken")
            trial.wait_for_share(0.9)
