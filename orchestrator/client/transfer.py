"""What both clients need to move bytes: pieces of a file with progress, and lines out of pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from orchestrator.client.answers import FrameAnswer
from orchestrator.client.calls import reading

PIECE_BYTES: Final = 1024 * 1024
OnProgress = Callable[[int, int], None]


class ProgressMeter:
    """Tells `on_progress` (bytes sent, bytes in all) what has gone out, from nothing to everything."""

    def __init__(self, on_progress: OnProgress | None, *, total_bytes: int) -> None:
        self._on_progress = on_progress
        self._total_bytes = total_bytes
        self._sent_bytes = 0
        self.sent(0)

    def sent(self, count: int) -> None:
        self._sent_bytes += count
        if self._on_progress is not None:
            self._on_progress(self._sent_bytes, self._total_bytes)


class FrameLines:
    """Reads an ndjson answer: a header line, then one line a frame. Pieces may be cut anywhere."""

    def __init__(self) -> None:
        self._read = reading(FrameAnswer)
        self._line_start: list[bytes] = []
        self._is_header_read = False

    def feed(self, piece: bytes) -> Iterator[FrameAnswer]:
        """The frames whose lines end in `piece`. Raises AnswerInvalidError."""
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._line_start, lines[0]])
            self._line_start.clear()
        self._line_start.append(rest)
        for line in lines:
            if self._is_header_read:
                yield self._read(line)
            self._is_header_read = True
