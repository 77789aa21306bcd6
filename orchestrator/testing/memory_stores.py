"""All stores in memory, on one world: `ports.Stores` without a database or a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.testing.memory_files import MemoryArchive, MemoryVideoFiles
from orchestrator.testing.memory_jobs import MemoryEventStore, MemoryJobStore, MemoryVideoStore
from orchestrator.testing.memory_runs import MemoryPartStore, MemoryRunStore
from orchestrator.testing.world import World

MAX_UPLOAD_BYTES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStores:
    """Implements `ports.Stores`."""

    videos: MemoryVideoStore
    jobs: MemoryJobStore
    runs: MemoryRunStore
    parts: MemoryPartStore
    events: MemoryEventStore
    archive: MemoryArchive
    files: MemoryVideoFiles


def memory_stores(*, max_upload_bytes: int = MAX_UPLOAD_BYTES) -> MemoryStores:
    """Empty stores that see one another's rows."""
    world = World()
    return MemoryStores(
        videos=MemoryVideoStore(world),
        jobs=MemoryJobStore(world),
        runs=MemoryRunStore(world),
        parts=MemoryPartStore(world),
        events=MemoryEventStore(world),
        archive=MemoryArchive(),
        files=MemoryVideoFiles(world, max_bytes=max_upload_bytes),
    )
