"""Batches under which a server broke are known again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.core.types import FrameStamp
from orchestrator.inference.suspects import FORGET_AFTER_S, Suspects
from orchestrator.testing.fake_model import served_model
from tests.support.triton import batch_of, noise

SHAPES = served_model().version


def test_breaks_in_a_row_are_counted_until_an_answer() -> None:
    suspects = Suspects(now=lambda: 0.0)
    batch = batch_of(0, noise(2))
    assert suspects.breaks_under(SHAPES, batch) == 0
    assert [suspects.blame(SHAPES, batch, event=life) for life in "aabab"] == [1, 1, 2, 3, 4]
    assert suspects.breaks_under(SHAPES, batch) == 4
    suspects.clear(SHAPES, batch)
    assert suspects.breaks_under(SHAPES, batch) == 0


def test_a_batch_that_is_decoded_again_into_another_slot_is_the_same() -> None:
    suspects = Suspects(now=lambda: 0.0)
    suspects.blame(SHAPES, batch_of(0, noise(2)), event="a")
    assert suspects.breaks_under(SHAPES, batch_of(5, noise(2))) == 1


def test_other_batches_are_not_suspected() -> None:
    suspects = Suspects(now=lambda: 0.0)
    frames = noise(2)
    batch = batch_of(0, frames)
    suspects.blame(SHAPES, batch, event="a")
    brighter = np.minimum(frames, 254) + 1
    later = replace(batch, stamps=tuple(FrameStamp(stamp.index + 2, stamp.pts_ms) for stamp in batch.stamps))
    assert suspects.breaks_under(SHAPES, batch_of(0, brighter)) == 0
    assert suspects.breaks_under(SHAPES, later) == 0
    assert suspects.breaks_under(served_model(version=2).version, batch) == 0


def test_what_is_never_tried_again_is_forgotten() -> None:
    now_s = [0.0]
    suspects = Suspects(now=lambda: now_s[0])
    batch = batch_of(0, noise(1))
    suspects.blame(SHAPES, batch, event="a")
    now_s[0] = FORGET_AFTER_S + 1
    assert suspects.breaks_under(SHAPES, batch) == 0
