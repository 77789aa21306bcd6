"""What the exit code of `trireel` says."""

from __future__ import annotations

from typing import Final

from orchestrator.client_errors import AnswerInvalidError, ApiError, ServerUnreachableError, StackStartError
from orchestrator.errors import NotFoundError, RequestInvalidError, SettingsError, TrireelError

FAILED: Final = 1
WRONG_USAGE: Final = 2
NO_SERVER: Final = 3
REFUSED: Final = 4
INTERRUPTED: Final = 130
TERMINATED: Final = 143

CODE_BY_ERROR: Final[tuple[tuple[type[TrireelError], int], ...]] = (
    (SettingsError, WRONG_USAGE),
    (ServerUnreachableError, NO_SERVER),
    (AnswerInvalidError, NO_SERVER),
    (StackStartError, NO_SERVER),
    (NotFoundError, REFUSED),
    (RequestInvalidError, REFUSED),
)


def exit_code_of(error: TrireelError) -> int:
    """A refusal is the caller's business (4xx); all else that the server says of itself is a failure."""
    if isinstance(error, ApiError):
        return REFUSED if 400 <= error.status < 500 else FAILED
    for kind, code in CODE_BY_ERROR:
        if isinstance(error, kind):
            return code
    return FAILED
