"""At start: segments that a crash left leased are freed, and rows and files are compared both ways.

What a crash left is removed, what is missing is told; nothing of either while another server is at work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from orchestrator.core.records import Failure
from orchestrator.errors import DataDamagedError
from orchestrator.storage.stores import Stores

log = structlog.get_logger()

RESULTS_MISSING: Final = Failure(
    code=DataDamagedError.code, message="the run's results are missing on the disk; submit the job again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """uploads_removed: cut off by a crash. orphaned: folders without a row. missing: rows without their files.

    are_orphans_kept: the database knows nothing at all, which looks like a wrong database rather than a crash.
    """

    uploads_removed: int
    orphaned_videos: frozenset[str]
    orphaned_runs: frozenset[str]
    missing_videos: frozenset[str]
    missing_runs: frozenset[str]
    are_orphans_kept: bool


async def recover(stores: Stores) -> None:
    """Once, before any upload or run: clear up after the last server, unless others are living. Raises StorageError.

    What a server leaves that dies beside others is taken over when its leases expire, and its half uploads are removed
    by the next one that starts alone.
    """
    if stores.data_dir.is_alone:
        if freed := await stores.runs.free_leases():
            log.info("leases freed", segments=freed)
        await reconcile(stores)
    await stores.data_dir.settle()


async def reconcile(stores: Stores) -> Reconciliation:
    """Only at start, alone in the data directory, and before any upload or run. Raises StorageError."""
    videos, runs = await stores.videos.ids(), await stores.runs.ids()
    video_folders, run_folders = await stores.files.ids(), await stores.archive.ids()
    found = Reconciliation(
        uploads_removed=await stores.files.sweep_incoming(),
        orphaned_videos=video_folders - videos,
        orphaned_runs=run_folders - runs,
        missing_videos=videos - await stores.files.whole_ids(),
        missing_runs=await stores.runs.succeeded_ids() - await stores.archive.whole_ids(),
        are_orphans_kept=not videos and not runs,
    )
    if not found.are_orphans_kept:
        for video_id in found.orphaned_videos:
            await stores.files.remove(video_id)
        for run_id in found.orphaned_runs:
            await stores.archive.remove(run_id)
    for run_id in found.missing_runs:
        # Its jobs stay as they ended, but nobody is given this run again.
        await stores.runs.lose_results(run_id, RESULTS_MISSING)
    _tell(found)
    return found


def _tell(found: Reconciliation) -> None:
    if found.uploads_removed:
        log.info("unfinished uploads removed", count=found.uploads_removed)
    if found.orphaned_videos or found.orphaned_runs:
        counts = {"videos": len(found.orphaned_videos), "runs": len(found.orphaned_runs)}
        if found.are_orphans_kept:
            log.warning("files without rows kept: the database is empty, is it the right one?", **counts)
        else:
            log.info("files without rows removed", **counts)
    if found.missing_videos or found.missing_runs:
        log.error("files are missing", videos=sorted(found.missing_videos), runs=sorted(found.missing_runs))
