"""`/v1/videos`: upload, list, look, delete."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post
from litestar.params import QueryParameter
from structlog.contextvars import bind_contextvars

from orchestrator.web.error_map import problems
from orchestrator.web.injected import VideosCase
from orchestrator.web.openapi import UploadOperation
from orchestrator.web.paging import DEFAULT_PAGE_ITEMS, OWNER, Cursor, Limit
from orchestrator.web.path_parameters import VideoId
from orchestrator.web.schemas import VideoAnswer, VideoPage
from orchestrator.web.uploads import FORM_OVERHEAD_BYTES, open_upload


def video_routes(max_upload_bytes: int) -> Router:
    """The upload is the one route whose body may be as large as a video."""

    @post(
        operation_id="uploadVideo",
        operation_class=UploadOperation,
        summary="Upload a video",
        status_code=201,
        request_max_body_size=max_upload_bytes + FORM_OVERHEAD_BYTES,
        responses=problems(400, 413, 422, 503, 507),
    )
    async def upload_video(
        request: Request[Any, Any, Any],
        videos: VideosCase,
        filename: Annotated[
            str | None, QueryParameter(max_length=1000, description="What to call it; metadata, never a path.")
        ] = None,
    ) -> Response[VideoAnswer]:
        """Send the file as the body, with any `Content-Type`, or as the field `file` of a `multipart/form-data`.

        The answer comes once the file is stored and its header was read; its frames are counted in the background.
        Nothing is kept of an upload that is refused or interrupted.
        """
        upload = await open_upload(request, file_name=filename, max_bytes=max_upload_bytes)
        async with aclosing(upload.chunks) as chunks:
            video = await videos.receive(chunks, file_name=upload.file_name, owner=OWNER)
        bind_contextvars(video_id=video.id)
        return Response(VideoAnswer.from_video(video), headers={"Location": f"/v1/videos/{video.id}"})

    return Router("/v1/videos", tags=["videos"], route_handlers=[upload_video, list_videos, get_video, delete_video])


@get(operation_id="listVideos", summary="List videos", responses=problems(400, 422))
async def list_videos(videos: VideosCase, limit: Limit = DEFAULT_PAGE_ITEMS, cursor: Cursor = None) -> VideoPage:
    """Newest first."""
    page = await videos.page(limit=limit, cursor=cursor)
    return VideoPage([VideoAnswer.from_video(video) for video in page.items], page.next_cursor)


@get("/{video_id:str}", operation_id="getVideo", summary="One video", responses=problems(400, 404))
async def get_video(video_id: VideoId, videos: VideosCase) -> VideoAnswer:
    """What is known of it; frames are counted soon after the upload."""
    return VideoAnswer.from_video(await videos.get(video_id))


@delete("/{video_id:str}", operation_id="deleteVideo", summary="Delete a video", responses=problems(400, 404, 409))
async def delete_video(video_id: VideoId, videos: VideosCase) -> None:
    """Rows and files are gone afterwards. Refused while a job needs it."""
    await videos.remove(video_id)
