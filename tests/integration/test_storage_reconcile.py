"""Rows and files are compared at start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.errors import DataDirLockedError
from orchestrator.settings import StorageSettings
from orchestrator.storage.reconcile import Reconciliation, reconcile
from orchestrator.storage.stores import Stores, open_stores
from tests.contract.scenario import Scenario
from tests.support.needs import ROOT

NOTHING = Reconciliation(
    uploads_removed=0,
    orphaned_videos=frozenset(),
    orphaned_runs=frozenset(),
    missing_videos=frozenset(),
    missing_runs=frozenset(),
    are_orphans_kept=False,
)


def settings_of(folder: Path) -> StorageSettings:
    return StorageSettings(database_url=f"sqlite:///{folder}/trireel.db", data_dir=folder, max_upload_bytes=1000)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with open_stores(settings_of(tmp_path)) as opened:
        yield opened


async def add_whole_video(stores: Stores) -> str:
    async with stores.files.receive() as incoming:
        await incoming.write(b"film")
        await incoming.keep()
    await Scenario(stores).add_video(incoming.video_id)
    return incoming.video_id


async def test_what_belongs_together_is_left_alone(stores: Stores, tmp_path: Path) -> None:
    video_id = await add_whole_video(stores)
    scenario = Scenario(stores)
    job = await scenario.submit(await stores.videos.get(video_id))
    await scenario.admit()
    await scenario.open_run(job)
    await scenario.finish(job)
    assert await reconcile(stores) == NOTHING
    assert await stores.files.ids() == {video_id}
    assert await stores.archive.ids() == {job.run_id}


async def test_what_a_crash_left_is_removed(stores: Stores, tmp_path: Path) -> None:
    video_id = await add_whole_video(stores)
    for folder in ("incoming/vid_half", "videos/vid_orphan", "runs/run_orphan"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "content").write_bytes(b"x")
    found = await reconcile(stores)
    assert found.uploads_removed == 1
    assert found.orphaned_videos == {"vid_orphan"}
    assert found.orphaned_runs == {"run_orphan"}
    assert await stores.files.ids() == {video_id}
    assert await stores.archive.ids() == frozenset()
    assert await reconcile(stores) == NOTHING


@pytest.mark.parametrize("is_folder_left", [False, True])
async def test_rows_without_their_files_are_told_and_kept(stores: Stores, tmp_path: Path, is_folder_left: bool) -> None:
    video_id = await add_whole_video(stores)
    scenario = Scenario(stores)
    job = await scenario.submit(await stores.videos.get(video_id))
    await scenario.admit()
    await scenario.open_run(job)
    await scenario.finish(job)
    await stores.files.remove(video_id)
    await stores.archive.remove(job.run_id)
    if is_folder_left:
        for folder in (f"videos/{video_id}", f"runs/{job.run_id}"):
            (tmp_path / folder).mkdir()
    found = await reconcile(stores)
    assert found.missing_videos == {video_id}
    assert found.missing_runs == {job.run_id}
    assert await stores.videos.ids() == {video_id}
    assert await stores.runs.ids() == {job.run_id}


async def test_an_empty_database_beside_full_folders_deletes_nobodys_videos(stores: Stores, tmp_path: Path) -> None:
    async with stores.files.receive() as incoming:
        await incoming.write(b"film")
        await incoming.keep()
    found = await reconcile(stores)
    assert found.are_orphans_kept
    assert await stores.files.ids() == found.orphaned_videos == {incoming.video_id}


async def test_two_servers_never_share_a_data_directory(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(DataDirLockedError, match=str(os.getpid())):
        async with open_stores(settings_of(tmp_path)):
            pass


# Commits segments for ever and says how many are done; killed at any moment it must leave whole segments only.
COMMITTER = """
import asyncio, sys
from pathlib import Path
from tests.contract.conftest import open_sqlite
from tests.contract.scenario import Scenario

async def main():
    async with open_sqlite(Path(sys.argv[1])) as stores:
        scenario = Scenario(stores)
        await scenario.start(segments=500, frames=30)
        while leased := await scenario.lease():
            run = await scenario.commit(leased)
            print(run.segments_done, flush=True)

asyncio.run(main())
"""


def commit_until_killed(data_dir: Path, commits: int) -> None:
    command = [sys.executable, "-c", COMMITTER, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < commits:
            pass
        process.kill()


@pytest.mark.parametrize("commits", [1, 9])
async def test_a_server_killed_while_it_commits_leaves_whole_segments(tmp_path: Path, commits: int) -> None:
    commit_until_killed(tmp_path, commits)
    async with open_stores(settings_of(tmp_path)) as stores:
        scenario = Scenario(stores)
        [run_id] = await stores.runs.ids()
        run = await stores.runs.get(run_id)
        # At most the segment that was open when the blow fell has to be done again.
        freed = await stores.runs.free_leases()
        assert freed <= 1
        assert run.segments_done >= commits
        assert run.ledger.inferred == 30 * run.segments_done
        assert await stores.parts.complete_through(run_id) == 2 * run.ledger.inferred - 2
        [job] = await stores.jobs.of_run(run_id)
        events = await stores.events.after(job, last_id=0, limit=10_000)
        assert [event.body["segment"] for event in events if event.run_id] == list(range(run.segments_done))
        frames = (await scenario.read_parts(run_id)).frame_index
        assert len(set(frames.tolist())) == 2 * run.ledger.inferred / 3
        leased = await scenario.lease_one()
        assert (leased.plan.number, leased.strikes) == (run.segments_done, freed)
