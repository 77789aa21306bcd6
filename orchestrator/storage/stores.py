"""Everything that is stored, opened together with a hold on the data directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from orchestrator.settings import StorageSettings
from orchestrator.storage.archive import ParquetArchive
from orchestrator.storage.clock import Clock, open_clock
from orchestrator.storage.engine import is_shareable, open_database
from orchestrator.storage.event_store import SqlEventStore
from orchestrator.storage.identity import require_own_data_dir
from orchestrator.storage.job_store import SqlJobStore
from orchestrator.storage.lock import DataDirHold, locked_data_dir, shared_data_dir
from orchestrator.storage.part_store import SqlPartStore
from orchestrator.storage.run_store import SqlRunStore
from orchestrator.storage.threads import open_threads
from orchestrator.storage.video_files import LocalVideoFiles
from orchestrator.storage.video_store import SqlVideoStore

# A slow disk then stops at most so many uploads, indices and pages at once; parts have threads of their own.
FILE_THREADS: Final = 4
PART_THREADS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The ports of `orchestrator.ports` under "What is stored".

    data_dir: `recover` asks it whether anybody else is at work, and lets others in at the end. clock: the one that all
    who use the database go by.
    """

    videos: SqlVideoStore
    jobs: SqlJobStore
    runs: SqlRunStore
    parts: SqlPartStore
    events: SqlEventStore
    archive: ParquetArchive
    files: LocalVideoFiles
    data_dir: DataDirHold
    clock: Clock


@asynccontextmanager
async def open_stores(settings: StorageSettings) -> AsyncIterator[Stores]:
    """On PostgreSQL, beside other servers, once those that come first have called `recover`.

    Raises DataDirLockedError, DataDirForeignError, SettingsError, StorageError, DiskFullError.
    """
    async with AsyncExitStack() as stack:
        is_shared = is_shareable(settings.database_url)
        if is_shared:
            data_dir = await stack.enter_async_context(shared_data_dir(settings.data_dir))
        else:
            data_dir = stack.enter_context(locked_data_dir(settings.data_dir))
        database = await stack.enter_async_context(open_database(settings))
        await require_own_data_dir(database, settings)
        file_threads = stack.enter_context(open_threads("files", count=FILE_THREADS))
        part_threads = stack.enter_context(open_threads("parts", count=PART_THREADS))
        yield Stores(
            videos=SqlVideoStore(database),
            jobs=SqlJobStore(database),
            runs=SqlRunStore(database),
            parts=SqlPartStore(database, part_threads),
            events=SqlEventStore(database),
            archive=ParquetArchive(settings.data_dir, file_threads),
            files=LocalVideoFiles(settings.data_dir, max_bytes=settings.max_upload_bytes, threads=file_threads),
            data_dir=data_dir,
            clock=await open_clock(database, is_shared=is_shared),
        )
