"""Uploads as a stream of bytes, whether they are the body itself or the one `file` of a form.

Litestar's own form parser would spool the video to a temporary folder first and hold text fields in memory
without a bound; here bytes go straight on, and what is not the file is counted and dropped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from multipart import (  # type: ignore[import-untyped]  # 2.0 ships no py.typed
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
)

from orchestrator.errors import UploadError, UploadInterruptedError, UploadTooLargeError

FORM_TYPE: Final = "multipart/form-data"
FILE_FIELD: Final = "file"
# What a form may hold beside the file, and what its boundaries and headers may add to the file's size.
MAX_TEXT_BYTES: Final = 64 * 1024
MAX_PARTS: Final = 16
FORM_OVERHEAD_BYTES: Final = 256 * 1024
MAX_FILE_NAME: Final = 255
HOW_TO: Final = "send the file as the body (Content-Type: application/octet-stream) or as the form field `file`"


@dataclass(frozen=True, slots=True)
class Upload:
    """file_name: what the client calls it, made harmless. chunks: raise UploadError; to be closed."""

    file_name: str
    chunks: AsyncGenerator[bytes, None]


async def open_upload(request: Request[Any, Any, Any], *, file_name: str | None, max_bytes: int) -> Upload:
    """Begin to read an upload; of a form, up to its file. Raises UploadError.

    Whatever is no form is the video itself: `curl --data-binary` calls it `application/x-www-form-urlencoded`, and
    what a decoder opens is told by its content, never by a header.
    """
    content_type, options = request.content_type
    is_form = content_type == FORM_TYPE
    most = max_bytes + (FORM_OVERHEAD_BYTES if is_form else 0)
    if (request.content_length or 0) > most:
        raise _too_large(max_bytes)
    body = _body_of(request, max_bytes)
    if not is_form:
        return Upload(harmless_name(file_name), body)
    parts = _file_parts(body, boundary=options.get("boundary", ""))
    async for part in parts:
        if isinstance(part, MultipartSegment):
            return Upload(harmless_name(file_name or part.filename), _bytes_of(parts))
    raise UploadError(f"the form has no field `{FILE_FIELD}`; {HOW_TO}")


def harmless_name(file_name: str | None) -> str:
    """The last component of what the client called the file, printable and of bounded length; only ever shown."""
    last = (file_name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(filter(str.isprintable, last)).strip()[-MAX_FILE_NAME:] or "upload"


async def _body_of(request: Request[Any, Any, Any], max_bytes: int) -> AsyncGenerator[bytes, None]:
    received_bytes = 0
    try:
        async for chunk in request.stream():
            received_bytes += len(chunk)
            if chunk:
                yield chunk
    except RequestEntityTooLarge as exc:
        raise _too_large(max_bytes) from exc
    except InternalServerException as exc:
        # All that Litestar 2.25 says of a client that disconnects.
        raise UploadInterruptedError(f"the client left after {received_bytes} bytes") from exc


async def _file_parts(
    body: AsyncGenerator[bytes, None], *, boundary: str
) -> AsyncGenerator[MultipartSegment | bytes, None]:
    """The head of the form's file, then its bytes. Raises UploadError, also when a second file follows."""
    is_file, file_count, text_bytes = False, 0, 0
    async for event in _form_events(body, boundary):
        if isinstance(event, MultipartSegment):
            is_file = event.name == FILE_FIELD
            file_count += is_file
            if file_count > 1:
                raise UploadError("the form holds more than one file; upload them one by one")
        if is_file:
            yield event
        elif isinstance(event, bytes):
            text_bytes += len(event)
            if text_bytes > MAX_TEXT_BYTES:
                raise UploadError(f"the form's other fields are over {MAX_TEXT_BYTES} bytes; {HOW_TO}")


async def _form_events(
    body: AsyncGenerator[bytes, None], boundary: str
) -> AsyncGenerator[MultipartSegment | bytes, None]:
    try:
        parser = PushMultipartParser(boundary, max_segment_count=MAX_PARTS)
        async for chunk in body:
            for event in parser.parse(chunk):
                if event is not None:
                    yield event
        parser.close()
    except MultipartError as exc:
        raise UploadError(f"the form cannot be read ({exc}); {HOW_TO}") from exc


async def _bytes_of(parts: AsyncGenerator[MultipartSegment | bytes, None]) -> AsyncGenerator[bytes, None]:
    async for part in parts:
        if isinstance(part, bytes):
            yield part


def _too_large(max_bytes: int) -> UploadTooLargeError:
    return UploadTooLargeError(f"a video may have at most {max_bytes} bytes; cut or recompress it")
