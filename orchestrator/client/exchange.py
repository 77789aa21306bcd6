"""Between a described call and httpx: addresses, requests, and what goes wrong as errors of the one tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import httpx
import msgspec

from orchestrator.client.calls import Call
from orchestrator.client_errors import AnswerInvalidError, ApiError, ConnectionLostError, ServerUnreachableError
from orchestrator.errors import SettingsError, TrireelError

Result = TypeVar("Result")

START_HINT: Final = "start one with `trireel serve` or `make serve`, or name another with --url or TRIREEL_URL"
DEFAULT_URL: Final = "http://127.0.0.1:8080"
# A proxy named in the environment is not meant for this machine; None is httpx's own direct way.
DIRECT_HOSTS: Final = ("all://127.0.0.1", "all://localhost", "all://[::1]")
CONNECT_TIMEOUT_S: Final = 5.0
WRITE_TIMEOUT_S: Final = 60.0
MAX_OUTAGE_S: Final = 60.0
GATEWAY_STATUSES: Final = frozenset({502, 503, 504})
# Before a call that is safe to repeat is sent again: long enough together for a server to be restarted.
RESEND_PAUSES_S: Final = (0.1, 1.0, 3.0)
UNREACHABLE: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an error answer (RFC 9457) with this API's stable `code`."""

    code: str
    detail: str
    retryable: bool = False


@dataclass(slots=True)
class Resending:
    """When to send a call again whose answer was lost. Only for calls that are safe to repeat."""

    pauses_s: Sequence[float] = RESEND_PAUSES_S
    _losses: int = 0

    def lost(self, error: ServerUnreachableError) -> float:
        """How long to wait first. Raises `error` after the last try, and where no server has taken the call at all."""
        was_never_sent = self._losses == 0 and not isinstance(error, ConnectionLostError)
        if was_never_sent or self._losses == len(self.pauses_s):
            raise error
        self._losses += 1
        return self.pauses_s[self._losses - 1]


def checked_url(url: str) -> str:
    """`url` without its last slash. Raises SettingsError where it is no http(s) address."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise SettingsError(f"the server's address {url!r} is none: {exc}") from exc
    if parts.scheme not in ("http", "https") or not parts.host:
        raise SettingsError(f"the server's address must look like http://127.0.0.1:8080, not {url!r}")
    return url.rstrip("/")


def is_encrypted(url: str) -> bool:
    """Whether certificates are needed; reading them takes a tenth of a second, which a command would feel."""
    return url.lower().startswith("https:")


def build_request(
    http: httpx.Client | httpx.AsyncClient,
    call: Call[Result],
    *,
    body: Iterator[bytes] | AsyncIterator[bytes] | None = None,
) -> httpx.Request:
    """The request that `call` describes; body: instead of its content."""
    timeout = httpx.Timeout(
        connect=CONNECT_TIMEOUT_S, read=call.read_timeout_s, write=WRITE_TIMEOUT_S, pool=CONNECT_TIMEOUT_S
    )
    return http.build_request(
        call.method,
        call.path,
        params=call.query,
        headers=call.headers,
        content=call.content if body is None else body,
        timeout=timeout,
    )


def is_answer(call: Call[Result], status: int) -> bool:
    """Whether the body is what was asked for, and not a problem."""
    return 200 <= status < 300 or status in call.accepts


@contextmanager
def connection_errors(url: str) -> Iterator[None]:
    """Translate what httpx raises while talking to the server at `url`."""
    try:
        yield
    except UNREACHABLE as exc:
        raise ServerUnreachableError(f"no server answers at {url}; {START_HINT}") from exc
    except httpx.TimeoutException as exc:
        raise ConnectionLostError(f"the server at {url} did not answer in time; look at its log") from exc
    except httpx.TransportError as exc:
        reason = str(exc) or type(exc).__name__
        raise ConnectionLostError(
            f"the connection to {url} broke before the answer was whole ({reason}); the server's log says why"
        ) from exc


def problem_of(status: int, content: bytes, *, url: str) -> TrireelError:
    """The error that an answer with a status of 300 or more stands for. content: its body, whole."""
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except msgspec.MsgspecError:
        if status in GATEWAY_STATUSES:
            return ConnectionLostError(f"a proxy at {url} answers {status}: the server behind it is away")
        return AnswerInvalidError(f"what answers at {url} with status {status} is no Trireel server; {START_HINT}")
    return ApiError(problem.detail, code=problem.code, status=status, retryable=problem.retryable)
