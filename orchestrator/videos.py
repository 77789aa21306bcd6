"""The use cases of videos: receive, list, index, delete."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import structlog

from orchestrator.core.records import Failure, Video
from orchestrator.errors import (
    CommitUnknownError,
    DecoderError,
    DecoderUnavailableError,
    TrireelError,
    VideoError,
    VideoNotFoundError,
)
from orchestrator.ports import Doorbell, Page, VideoFiles, VideoReader, VideoStore
from orchestrator.telemetry import Metrics

log = structlog.get_logger()

# A file that killed its decoder so often while it was indexed will do so again.
MAX_INDEX_STRIKES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Videos:
    """utc_now: aware. monotonic_s: for durations. work: rung when there is an index to make or one more is there.

    index_strikes: how often indexing a video killed its decoder, by video.
    """

    store: VideoStore
    files: VideoFiles
    reader: VideoReader
    work: Doorbell
    metrics: Metrics
    utc_now: Callable[[], datetime]
    monotonic_s: Callable[[], float]
    index_strikes: Counter[str] = field(default_factory=Counter)

    async def receive(self, chunks: AsyncIterator[bytes], *, file_name: str, owner: str) -> Video:
        """Store a video as its bytes arrive, and read its header; the index follows in the background.

        Raises UploadError, VideoError or StorageError; then nothing of the upload is left, but for CommitUnknownError.
        """
        async with self.files.receive() as incoming:
            async for chunk in chunks:
                await incoming.write(chunk)
                self.metrics.upload_bytes.inc(len(chunk))
            sha256 = await incoming.keep()
            try:
                header = await self.reader.read_header(self.files.content_path(incoming.video_id))
                video = Video(
                    id=incoming.video_id,
                    owner=owner,
                    sha256=sha256,
                    size_bytes=incoming.size_bytes,
                    file_name=file_name,
                    header=header,
                    created_at=self.utc_now(),
                )
                await self.store.add(video)
            except CommitUnknownError:
                # If its row is there, so must be its files; if not, the next start removes them.
                raise
            except BaseException:
                await self.files.remove(incoming.video_id)
                raise
        self.work.ring()
        log.info("video received", video_id=video.id, size_bytes=video.size_bytes, codec=header.codec)
        return video

    async def get(self, video_id: str) -> Video:
        """Raises VideoNotFoundError."""
        return await self.store.get(video_id)

    async def page(self, *, limit: int, cursor: str | None) -> Page[Video]:
        """Newest first. Raises CursorInvalidError."""
        return await self.store.page(limit=limit, cursor=cursor)

    async def remove(self, video_id: str) -> None:
        """Delete row and files. Raises VideoNotFoundError; VideoInUseError while a job refers to it."""
        await self.store.remove(video_id)
        await self.files.remove(video_id)
        log.info("video removed", video_id=video_id)

    async def index_next(self) -> bool:
        """Make the index of the oldest video that has none; False when every video has one.

        Raises DecoderUnavailableError, StorageError: it is tried again by the next call.
        """
        pending = await self.store.pending_index()
        if not pending:
            return False
        # One that killed its decoder waits behind the others.
        video = min(pending, key=lambda each: self.index_strikes[each.id])
        try:
            await self._index(video)
        except VideoNotFoundError:
            log.info("video was deleted while it was indexed", video_id=video.id)
            await self.files.remove(video.id)
        self.work.ring()
        return True

    async def _index(self, video: Video) -> None:
        began_s = self.monotonic_s()
        try:
            index, report = await self.reader.make_index(self.files.content_path(video.id))
        except VideoError as exc:
            await self._give_index_up(video, exc)
            return
        except DecoderUnavailableError:
            # It says nothing of the file; the loop asks again after a pause.
            raise
        except DecoderError as exc:
            self.index_strikes[video.id] += 1
            log.warning("indexing failed", video_id=video.id, code=exc.code, strikes=self.index_strikes[video.id])
            if self.index_strikes[video.id] >= MAX_INDEX_STRIKES:
                await self._give_index_up(video, exc)
            return
        await self.files.save_index(video.id, index)
        report = replace(report, indexing_s=self.monotonic_s() - began_s)
        await self.store.set_indexed(video.id, report)
        log.info("video indexed", video_id=video.id, frames=report.frame_count, warnings=report.warnings)

    async def _give_index_up(self, video: Video, error: TrireelError) -> None:
        del self.index_strikes[video.id]
        await self.store.set_index_failed(video.id, Failure(code=error.code, message=str(error)))
        log.info("video cannot be indexed", video_id=video.id, code=error.code)
