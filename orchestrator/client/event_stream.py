"""A parser for server-sent events, as the WHATWG specification describes them; bytes in, events out, no I/O."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

CONTENT_TYPE: Final = "text/event-stream"
DEFAULT_KIND: Final = "message"
BYTE_ORDER_MARK: Final = "\ufeff"
LINE_END: Final = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """kind: the `event` field. last_event_id: the newest id sent so far, "" if none or if it was reset."""

    kind: str
    data: str
    last_event_id: str


class EventStreamParser:
    """Parses one connection's bytes. A new connection needs a new parser, begun with the last one's `last_event_id`.

    An event is complete at its empty line; what follows the last one is dropped with the parser.
    """

    def __init__(self, *, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self._id = last_event_id
        self._kind = ""
        self._data: list[str] = []
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._line_start: list[str] = []
        self._is_first_text = True
        self._skips_line_feed = False

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that end in `chunk`, which may be cut anywhere, inside a character or a line end too."""
        for line in self._lines(self._decode(chunk)):
            if line:
                self._take_field(line)
            elif (event := self._complete()) is not None:
                yield event

    def _lines(self, text: str) -> list[str]:
        """The lines that end in `text`; its unfinished rest is kept, in pieces so that long lines cost no copies."""
        if text and self._is_first_text:
            self._is_first_text = False
            text = text.removeprefix(BYTE_ORDER_MARK)
        if text and self._skips_line_feed:
            # The carriage return that ended the last chunk was half of a CRLF.
            self._skips_line_feed = False
            text = text.removeprefix("\n")
        if not text:
            return []
        self._skips_line_feed = text.endswith("\r")
        *lines, rest = LINE_END.split(text)
        if lines:
            lines[0] = "".join([*self._line_start, lines[0]])
            self._line_start.clear()
        self._line_start.append(rest)
        return lines

    def _take_field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)

    def _complete(self) -> ServerSentEvent | None:
        """What the empty line ends: an event, or None where it has no data; its id counts in either case."""
        self.last_event_id = self._id
        kind, data = self._kind, self._data
        self._kind, self._data = "", []
        return ServerSentEvent(kind or DEFAULT_KIND, "\n".join(data), self._id) if data else None
