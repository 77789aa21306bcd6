"""What following a job must remember between connections; it says what to do next and does no I/O itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from orchestrator.client.answers import EVENT_BODIES, SNAPSHOT_KINDS, JobEvent
from orchestrator.client.event_stream import CONTENT_TYPE, EventStreamParser, ServerSentEvent
from orchestrator.client_errors import AnswerInvalidError, ConnectionLostError
from orchestrator.errors import TrireelError

LAST_KIND: Final = "done"
NO_CONTENT: Final = 204
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 10.0
# Pings come at least every 15 s, so three missing ones mean a connection that is dead without saying so.
SILENCE_S: Final = 45.0


class JobStream:
    """Follows one job over any number of connections: `request_headers`, `opened`, `feed` ..., `lost`, again.

    max_outage_s: how long the server may be away before `lost` gives up. now: seconds of a monotonic clock.
    """

    def __init__(self, *, last_event_id: int | None, max_outage_s: float, now: Callable[[], float]) -> None:
        self.is_over = False
        self._last_event_id = "" if last_event_id is None else str(last_event_id)
        self._parser = EventStreamParser(last_event_id=self._last_event_id)
        self._max_outage_s = max_outage_s
        self._now = now
        self._alive_at: float | None = None
        self._losses = 0
        self._retry_s = FIRST_RETRY_S

    def request_headers(self) -> Mapping[str, str]:
        """Of the next connection: where to go on."""
        headers = {"Accept": CONTENT_TYPE, "Cache-Control": "no-store"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        return headers

    def opened(self, status: int, content_type: str) -> None:
        """Note the head of a successful answer. Raises AnswerInvalidError where it is no event stream."""
        if status == NO_CONTENT:
            self.is_over = True
            return
        if content_type.partition(";")[0].strip().lower() != CONTENT_TYPE:
            raise AnswerInvalidError(f"the server answered {content_type or 'nothing'} instead of an event stream")
        self._parser = EventStreamParser(last_event_id=self._last_event_id)
        self._alive_at = self._now()

    def feed(self, chunk: bytes) -> Iterator[JobEvent]:
        """The events in `chunk`; kinds that this client does not know are left out. `done` is the last one."""
        self._alive_at = self._now()
        self._losses = 0
        for event in self._parser.feed(chunk):
            self._last_event_id = event.last_event_id
            if (known := _decoded(event)) is None:
                continue
            self.is_over = known.kind == LAST_KIND
            yield known
            if self.is_over:
                return
        if self._parser.retry_ms is not None:
            self._retry_s = self._parser.retry_ms / 1000

    def lost(self, error: TrireelError | None) -> float:
        """Seconds to wait before connecting again after `error`, or None where the server just ended the answer.

        Raises the error if it is not a passing one, if there never was a connection, or after the longest outage.
        """
        error = error or ConnectionLostError("the server ended the event stream before the job was done")
        if not error.retryable or self._alive_at is None or self._now() - self._alive_at > self._max_outage_s:
            raise error
        self._losses += 1
        return min(self._retry_s * float(1 << min(self._losses - 1, 16)), LONGEST_RETRY_S)


def _decoded(event: ServerSentEvent) -> JobEvent | None:
    """Raises AnswerInvalidError when the body of a known kind is none."""
    body_type = EVENT_BODIES.get(event.kind)
    if body_type is None:
        return None
    try:
        body = msgspec.json.decode(event.data, type=body_type)
        event_id = int(event.last_event_id) if _has_id(event) else None
    except (msgspec.MsgspecError, ValueError) as exc:
        raise AnswerInvalidError(f"the server sent a {event.kind!r} event that cannot be read: {exc}") from exc
    return JobEvent(kind=event.kind, id=event_id, body=body)


def _has_id(event: ServerSentEvent) -> bool:
    """A snapshot has none of its own, though the stream's last id still stands beside it."""
    return event.kind not in SNAPSHOT_KINDS and event.last_event_id != ""
