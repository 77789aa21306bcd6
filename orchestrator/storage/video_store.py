"""Videos as rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.core.records import Failure, Video
from orchestrator.core.states import IndexState
from orchestrator.core.types import IndexReport
from orchestrator.errors import VideoInUseError, VideoNotFoundError
from orchestrator.ports import Page
from orchestrator.storage.engine import Database
from orchestrator.storage.pages import read_page
from orchestrator.storage.row_codec import to_json, to_video, video_row
from orchestrator.storage.tables import jobs, runs, videos
from orchestrator.storage.uninterrupted import uninterrupted


@uninterrupted
class SqlVideoStore:
    """`ports.VideoStore` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, video: Video) -> None:
        async with self._database.write() as connection:
            await connection.execute(insert(videos).values(video_row(video)))

    async def get(self, video_id: str) -> Video:
        async with self._database.read() as connection:
            row = (await connection.execute(select(videos).where(videos.c.id == video_id))).mappings().one_or_none()
        if row is None:
            raise _not_found(video_id)
        return to_video(row)

    async def many(self, video_ids: Collection[str]) -> dict[str, Video]:
        found = select(videos).where(videos.c.id.in_(video_ids))
        async with self._database.read() as connection:
            return {row["id"]: to_video(row) for row in (await connection.execute(found)).mappings()}

    async def page(self, *, limit: int, cursor: str | None) -> Page[Video]:
        async with self._database.read() as connection:
            return await read_page(
                connection, select(videos), seq=videos.c.seq, to_item=to_video, limit=limit, cursor=cursor
            )

    async def pending_index(self) -> Sequence[Video]:
        pending = select(videos).where(videos.c.index_state == IndexState.PENDING).order_by(videos.c.seq)
        async with self._database.read() as connection:
            return [to_video(row) for row in (await connection.execute(pending)).mappings()]

    async def set_indexed(self, video_id: str, report: IndexReport) -> None:
        await self._set(video_id, index_state=IndexState.READY, report=to_json(report), index_failure=None)

    async def set_index_failed(self, video_id: str, failure: Failure) -> None:
        await self._set(video_id, index_state=IndexState.FAILED, report=None, index_failure=to_json(failure))

    async def remove(self, video_id: str) -> None:
        async with self._database.write() as connection:
            if await _is_in_use(connection, video_id):
                raise VideoInUseError(f"a job refers to video {video_id}; delete the job first")
            removed = await connection.execute(delete(videos).where(videos.c.id == video_id))
            if not removed.rowcount:
                raise _not_found(video_id)

    async def ids(self) -> frozenset[str]:
        async with self._database.read() as connection:
            return frozenset((await connection.execute(select(videos.c.id))).scalars())

    async def _set(self, video_id: str, **columns: Any) -> None:
        async with self._database.write() as connection:
            changed = await connection.execute(update(videos).where(videos.c.id == video_id).values(columns))
            if not changed.rowcount:
                raise _not_found(video_id)


async def _is_in_use(connection: AsyncConnection, video_id: str) -> bool:
    """A job may name another upload of the same content, and its run still reads this one."""
    needed = (
        select(jobs.c.id)
        .join(runs, runs.c.id == jobs.c.run_id)
        .where(or_(jobs.c.video_id == video_id, runs.c.video_id == video_id))
        .limit(1)
    )
    return (await connection.execute(needed)).first() is not None


def _not_found(video_id: str) -> VideoNotFoundError:
    return VideoNotFoundError(f"there is no video {video_id:.80}; GET /v1/videos lists those there are")
