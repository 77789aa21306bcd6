"""Errors as answers: one table from the error tree to HTTP statuses, one form (RFC 9457) for everything.

This is the only place that knows both. What nobody foresaw becomes `internal_error` with an id that the log
repeats beside the traceback; the answer itself never holds one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap, Scope
from msgspec import Meta

from orchestrator.errors import (
    DataDamagedError,
    DecoderError,
    DiskFullError,
    InferenceError,
    ModelNotReadyError,
    NotFoundError,
    RequestInvalidError,
    ServerStoppingError,
    StorageError,
    TransitionError,
    TrireelError,
    TritonTimeoutError,
    TritonUnavailableError,
    UploadError,
    UploadInterruptedError,
    UploadTooLargeError,
    VideoError,
    VideoInUseError,
)

log = structlog.get_logger()

PROBLEM_TYPE: Final = "application/problem+json"
INTERNAL_ERROR: Final = "internal_error"
RETRY_AFTER_S: Final = 2

# The nearest class above an error decides.
STATUS_BY_ERROR: Final[Mapping[type[TrireelError], HTTPStatus]] = {
    TrireelError: HTTPStatus.INTERNAL_SERVER_ERROR,
    RequestInvalidError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ModelNotReadyError: HTTPStatus.SERVICE_UNAVAILABLE,
    VideoInUseError: HTTPStatus.CONFLICT,
    TransitionError: HTTPStatus.CONFLICT,
    UploadError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UploadTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UploadInterruptedError: HTTPStatus.BAD_REQUEST,
    VideoError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DecoderError: HTTPStatus.SERVICE_UNAVAILABLE,
    InferenceError: HTTPStatus.BAD_GATEWAY,
    TritonUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    TritonTimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
    DataDamagedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
    DiskFullError: HTTPStatus.INSUFFICIENT_STORAGE,
    ServerStoppingError: HTTPStatus.SERVICE_UNAVAILABLE,
}

# What the framework refuses before a handler sees it.
CODE_BY_STATUS: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: "request_malformed",
    HTTPStatus.NOT_FOUND: NotFoundError.code,
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body_too_large",
}
SENTENCE_BY_STATUS: Final[Mapping[int, str]] = {
    HTTPStatus.NOT_FOUND: "nothing is here; GET /schema lists all there is",
    HTTPStatus.METHOD_NOT_ALLOWED: "this address does not take this method; the Allow header names those it takes",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the body is over max_body_bytes of GET /v1/limits",
}


class FieldProblem(msgspec.Struct, frozen=True):
    """One thing wrong with a parameter or a member of the body."""

    field: Annotated[str, Meta(description="Name of the parameter, or path of the member.")]
    message: Annotated[str, Meta(description="What is wrong with it.")]


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error answer (RFC 9457). Decide by `code`; `detail` is a sentence for people."""

    type: Annotated[str, Meta(description="The code as a URN.", examples=["urn:trireel:error:job_not_found"])]
    title: Annotated[str, Meta(description="The code in words.", examples=["Job not found"])]
    status: Annotated[int, Meta(description="The HTTP status again.", examples=[404])]
    detail: Annotated[
        str,
        Meta(
            description="What went wrong and what to do, for people.",
            examples=["there is no job 9a0d1c2e; GET /v1/jobs lists those there are"],
        ),
    ]
    code: Annotated[str, Meta(description="Stable; docs/errors.md lists all.", examples=["job_not_found"])]
    retryable: Annotated[bool, Meta(description="Whether the same request may work later.")]
    instance: Annotated[str, Meta(description="The path asked for.", examples=["/v1/jobs/9a0d1c2e"])]
    job_id: Annotated[str | None, Meta(description="The job asked for, if one was.")] = None
    errors: Annotated[list[FieldProblem], Meta(description="What is wrong, field by field.")] = []
    error_id: Annotated[str | None, Meta(description="With internal_error: what to look for in the log.")] = None


def status_of(error: type[TrireelError]) -> HTTPStatus:
    """The status that the nearest class of the table gives."""
    return next(STATUS_BY_ERROR[cls] for cls in error.__mro__ if cls in STATUS_BY_ERROR)


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """What OpenAPI says of a route that may refuse with `statuses`."""
    return {
        status: ResponseSpec(
            Problem, generate_examples=False, description=HTTPStatus(status).phrase, media_type=PROBLEM_TYPE
        )
        for status in statuses
    }


def answer_known(request: Request[Any, Any, Any], exc: TrireelError) -> Response[bytes]:
    """An error of the tree: its own code and sentence. Those that a person must look at are logged."""
    status = status_of(type(exc))
    if isinstance(exc, UploadInterruptedError):
        log.info("upload interrupted", detail=str(exc))
    elif status is HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(exc, StorageError):
        log.error("request failed", code=exc.code, exc_info=exc)
    return _answer(request, status, exc.code, str(exc) or status.phrase, retryable=exc.retryable)


def answer_framework(request: Request[Any, Any, Any], exc: HTTPException) -> Response[bytes]:
    """What Litestar refuses: unknown routes, methods, malformed and invalid parameters and bodies."""
    if isinstance(exc, ValidationException):
        fields = _fields_of(exc.extra)
        detail = "; ".join(f"{field.field}: {field.message}" for field in fields) or exc.detail
        return _answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, RequestInvalidError.code, detail, errors=fields)
    if exc.status_code not in CODE_BY_STATUS:
        return answer_unforeseen(request, exc)
    code, sentence = CODE_BY_STATUS[exc.status_code], SENTENCE_BY_STATUS.get(exc.status_code, exc.detail)
    return _answer(request, HTTPStatus(exc.status_code), code, sentence, headers=exc.headers)


def answer_unforeseen(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    """A bug, or a client that left while its body was read."""
    if request.scope["state"].get(CLIENT_LEFT):
        return _answer(request, HTTPStatus.BAD_REQUEST, UploadInterruptedError.code, "the client left half-way")
    error_id = secrets.token_hex(8)
    log.error("unforeseen error", error_id=error_id, exc_info=exc)
    detail = f"the server met an error nobody foresaw; its log has it under {error_id}"
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR, detail, error_id=error_id)


async def log_socket_error(exc: Exception, scope: Scope) -> None:
    """WebSockets have no answer to put an id into: Litestar closes them with 4500, and here is the traceback."""
    if scope["type"] == ScopeType.WEBSOCKET and not isinstance(exc, HTTPException):
        log.error("unforeseen error on a socket", exc_info=exc)


# Set by the request log in the scope's state once the client is known to be gone.
CLIENT_LEFT: Final = "trireel_client_left"

EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = {
    TrireelError: answer_known,
    HTTPException: answer_framework,
    Exception: answer_unforeseen,
}


def _fields_of(extra: object) -> list[FieldProblem]:
    entries: Sequence[Mapping[str, str]] = extra if isinstance(extra, list) else []
    return [FieldProblem(entry.get("key") or "body", entry["message"]) for entry in entries]


def _answer(
    request: Request[Any, Any, Any],
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    retryable: bool = False,
    errors: Sequence[FieldProblem] = (),
    error_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    problem = Problem(
        type=f"urn:trireel:error:{code}",
        title=code.replace("_", " ").capitalize(),
        status=status.value,
        detail=detail,
        code=code,
        retryable=retryable,
        instance=request.scope["path"],
        job_id=request.scope.get("path_params", {}).get("job_id"),
        errors=list(errors),
        error_id=error_id,
    )
    waiting = {"Retry-After": str(RETRY_AFTER_S)} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Response(
        msgspec.json.encode(problem),
        status_code=status.value,
        media_type=PROBLEM_TYPE,
        headers={**(headers or {}), **waiting},
    )
