"""Batches under which a server broke: whether it is the batch shows when it is tried again."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import numpy as np

from orchestrator.core.types import FrameBatch, ModelVersion

# Longer than a server with large models takes to start again; what was not tried again by then was cancelled.
FORGET_AFTER_S: Final = 3600.0
# Every so many rows of a frame are looked at: stamps tell most batches apart, and the rest these.
ROWS_APART: Final = 8


class Suspects:
    """How often in a row a server broke under a batch. Empty but after a break, and free of cost while it is.

    A batch is known again by its content, since a segment that was handed back is decoded again.
    """

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._breaks: dict[Hashable, _Breaks] = {}

    def breaks_under(self, version: ModelVersion, batch: FrameBatch) -> int:
        if not self._breaks:
            return 0
        self._forget_old()
        known = self._breaks.get(_key(version, batch))
        return known.count if known else 0

    def blame(self, version: ModelVersion, batch: FrameBatch, *, event: Hashable) -> int:
        """Count the event, once, however many requests for the same frames it ended; how many there were."""
        known = self._breaks.setdefault(_key(version, batch), _Breaks())
        if known.last_event != event:
            known.count += 1
        known.last_event, known.at_s = event, self._now()
        return known.count

    def clear(self, version: ModelVersion, batch: FrameBatch) -> None:
        if self._breaks:
            self._breaks.pop(_key(version, batch), None)

    def _forget_old(self) -> None:
        oldest_s = self._now() - FORGET_AFTER_S
        self._breaks = {key: known for key, known in self._breaks.items() if known.at_s > oldest_s}


@dataclass(slots=True)
class _Breaks:
    count: int = 0
    last_event: Hashable = None
    at_s: float = 0.0


def _key(version: ModelVersion, batch: FrameBatch) -> Hashable:
    rows = np.ascontiguousarray(batch.pixels[:, ::ROWS_APART])
    return version, batch.stamps, batch.pixels.shape, zlib.crc32(rows.data)
