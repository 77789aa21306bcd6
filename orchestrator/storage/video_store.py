"""Videos as rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from orchestrator.core.records import Failure, Video
from orchestrator.core.states import IndexState
from orchestrator.core.types import IndexReport
from orchestrator.errors import VideoInUseError, VideoNotFoundError
from orchestrator.ports import Page
from orchestrator.storage.moves import is_any
from orchestrator.storage.pages import read_page
from orchestrator.storage.row_codec import Row, to_video, video_row
from orchestrator.storage.tables import jobs, runs, videos
from orchestrator.storage.transactions import SqlStore, reading, writing

VIDEOS: Final = select(videos)
VIDEO: Final = VIDEOS.where(videos.c.id == bindparam("video_id"))
VIDEOS_NAMED: Final = VIDEOS.where(videos.c.id.in_(bindparam("video_ids", expanding=True)))
VIDEOS_PENDING: Final = VIDEOS.where(videos.c.index_state == IndexState.PENDING).order_by(videos.c.seq)
VIDEO_IDS: Final = select(videos.c.id)
INSERT_VIDEO: Final = insert(videos)
# Takes the columns to be set as further parameters.
UPDATE_VIDEO: Final = update(videos).where(videos.c.id == bindparam("of_video"))
DELETE_VIDEO: Final = delete(videos).where(videos.c.id == bindparam("video_id"))
# A job may name another upload of the same content, and its run still reads this one.
JOB_THAT_NEEDS: Final = (
    select(jobs.c.id)
    .join(runs, runs.c.id == jobs.c.run_id)
    .where(or_(jobs.c.video_id == bindparam("video_id"), runs.c.video_id == bindparam("video_id")))
    .limit(1)
)


class SqlVideoStore(SqlStore):
    """`ports.VideoStore` in a database."""

    @writing
    def add(self, connection: Connection, video: Video) -> None:
        connection.execute(INSERT_VIDEO, video_row(video))

    @reading
    def get(self, connection: Connection, video_id: str) -> Video:
        row = connection.execute(VIDEO, {"video_id": video_id}).mappings().one_or_none()
        if row is None:
            raise _not_found(video_id)
        return to_video(row)

    @reading
    def many(self, connection: Connection, video_ids: Collection[str]) -> dict[str, Video]:
        found = connection.execute(VIDEOS_NAMED, {"video_ids": list(video_ids)})
        return {row["id"]: to_video(row) for row in found.mappings()}

    @reading
    def page(self, connection: Connection, *, limit: int, cursor: str | None) -> Page[Video]:
        return read_page(connection, VIDEOS, seq=videos.c.seq, to_item=to_video, limit=limit, cursor=cursor)

    @reading
    def pending_index(self, connection: Connection) -> Sequence[Video]:
        return [to_video(row) for row in connection.execute(VIDEOS_PENDING).mappings()]

    @writing
    def set_indexed(self, connection: Connection, video_id: str, report: IndexReport) -> None:
        _set(connection, video_id, {"index_state": IndexState.READY, "report": report, "index_failure": None})

    @writing
    def set_index_failed(self, connection: Connection, video_id: str, failure: Failure) -> None:
        _set(connection, video_id, {"index_state": IndexState.FAILED, "report": None, "index_failure": failure})

    @writing
    def remove(self, connection: Connection, video_id: str) -> None:
        if is_any(connection, JOB_THAT_NEEDS, {"video_id": video_id}):
            raise VideoInUseError(f"a job refers to video {video_id}; delete the job first")
        if not connection.execute(DELETE_VIDEO, {"video_id": video_id}).rowcount:
            raise _not_found(video_id)

    @reading
    def ids(self, connection: Connection) -> frozenset[str]:
        return frozenset(connection.execute(VIDEO_IDS).scalars())


def _set(connection: Connection, video_id: str, columns: Row) -> None:
    """Raises VideoNotFoundError."""
    if not connection.execute(UPDATE_VIDEO, {"of_video": video_id, **columns}).rowcount:
        raise _not_found(video_id)


def _not_found(video_id: str) -> VideoNotFoundError:
    return VideoNotFoundError(f"there is no video {video_id:.80}; GET /v1/videos lists those there are")
