"""What one server is asked at the moment and whether it failed last: by this, batches choose where to go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0


@dataclass(slots=True)
class Load:
    """frames: in flight. failures: in a row, those of one moment counted once.

    A server that failed rests, longer each time, and then gets one batch at a time until it answers one. Without this a
    server that hangs, or fails at once, has the fewest frames in flight and draws all the work.
    """

    frames: int = 0
    failures: int = 0
    rests_until_s: float = 0.0

    @contextmanager
    def carrying(self, frames: int) -> Iterator[None]:
        self.frames += frames
        try:
            yield
        finally:
            self.frames -= frames

    def is_resting(self, now_s: float) -> bool:
        return self.failures > 0 and now_s < self.rests_until_s

    def is_doubtful(self, now_s: float) -> bool:
        """Whether a batch should go elsewhere, if it can."""
        return self.failures > 0 and (self.frames > 0 or now_s < self.rests_until_s)

    def note_failure(self, now_s: float) -> bool:
        """True if it is the first one after an answer."""
        if self.is_resting(now_s):
            return False
        self.failures += 1
        self.rests_until_s = now_s + min(FIRST_REST_S * 2 ** (self.failures - 1), LONGEST_REST_S)
        return self.failures == 1

    def note_answer(self) -> bool:
        """True if it is the first one after a failure."""
        was_failing = self.failures > 0
        self.failures = 0
        return was_failing
