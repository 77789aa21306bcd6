"""Calls to the API as a client without mercy makes them: every error answer is kept for the checker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

import httpx

from tests.faults.evidence import ErrorAnswer

TIMEOUT_S: Final = 30.0
# A body that says more than this says it in the first part too.
KEPT_BODY: Final = 4000


@dataclass(slots=True)
class ErrorLog:
    """Error answers of all threads. expected: statuses that a request may be answered with, not errors to it."""

    answers: list[ErrorAnswer] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def note(self, response: httpx.Response) -> None:
        if response.status_code < 400:
            return
        response.read()
        answer = ErrorAnswer(
            request=f"{response.request.method} {response.request.url.path}",
            status=response.status_code,
            content_type=response.headers.get("content-type", ""),
            body=response.text[:KEPT_BODY],
        )
        with self._lock:
            self.answers.append(answer)


@contextmanager
def recorded_http(url: str, log: ErrorLog) -> Iterator[httpx.Client]:
    """A client of one thread."""
    hooks: Mapping[str, Any] = {"response": [log.note]}
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, event_hooks=hooks, trust_env=False) as http:
        yield http


def canonical(value: object) -> str:
    """JSON that is equal where the values are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def canonical_lines(ndjson: str) -> tuple[str, ...]:
    """A result's frames without its header, which tells of ids."""
    _, *frames = ndjson.splitlines()
    return tuple(canonical(json.loads(line)) for line in frames)
