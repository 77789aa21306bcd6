"""The branch of the error tree that the client of the API meets: no server, no answer, or one that says no."""

from __future__ import annotations

from orchestrator.errors import TrireelError


class ServerUnreachableError(TrireelError):
    """The client found no orchestrator at the address."""

    code = "server_unreachable"
    retryable = True


class ConnectionLostError(ServerUnreachableError):
    """The server went silent or away during a call; whether it did the work is unknown."""

    code = "connection_lost"


class AnswerInvalidError(TrireelError):
    """Something answers at the address, but not as Trireel does."""

    code = "answer_invalid"


class StackStartError(TrireelError):
    """The embedded stack that a command started for itself did not become ready."""

    code = "stack_start_failed"


class ApiError(TrireelError):
    """The server refused a call. code, detail and retryable: the server's own. status: of HTTP."""

    def __init__(self, detail: str, *, code: str, status: int, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code = code  # type: ignore[misc]  # every answer brings its own
        self.retryable = retryable  # type: ignore[misc]  # likewise
        self.status = status
        self.detail = detail
