"""Every `CandidateArchive`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.core.types import Candidates, FrameStamp
from orchestrator.errors import StorageError
from orchestrator.ports import Stores
from tests.contract.scenario import Scenario, assert_equal, candidates_of


async def one_by_one(pieces: list[Candidates]) -> AsyncIterator[Candidates]:
    for piece in pieces:
        yield piece


def pieces_of(frames: int, *, per_piece: int = 64, per_frame: int | None = None, every: int = 2) -> list[Candidates]:
    stamps = [FrameStamp(every * sample, 40.0 * every * sample) for sample in range(frames)]
    return [
        candidates_of(stamps[start : start + per_piece], per_frame=per_frame) for start in range(0, frames, per_piece)
    ]


async def test_what_was_written_comes_back_bit_by_bit(scenario: Scenario, stores: Stores) -> None:
    pieces = pieces_of(5000)
    await stores.archive.write("run_1", one_by_one(pieces))
    assert_equal(await scenario.read_archive("run_1"), Candidates.concatenate(pieces))
    assert await stores.archive.ids() == {"run_1"}


@pytest.mark.parametrize("per_piece", [1, 999, 1000, 1001, 4000])
async def test_the_size_of_the_pieces_does_not_matter(scenario: Scenario, stores: Stores, per_piece: int) -> None:
    pieces = pieces_of(4000 if per_piece > 1 else 50, per_piece=per_piece, per_frame=1)
    await stores.archive.write("run_1", one_by_one(pieces))
    assert_equal(await scenario.read_archive("run_1"), Candidates.concatenate(pieces))


@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 3), (1998, 2002), (4000, None), (9998, 9998), (10_000, None)])
async def test_a_range_of_frames_is_read_and_nothing_else(
    scenario: Scenario, stores: Stores, first: int, last: int | None
) -> None:
    pieces = pieces_of(5000, per_frame=2)
    await stores.archive.write("run_1", one_by_one(pieces))
    expected = Candidates.concatenate(pieces).within(first, last)
    assert_equal(await scenario.read_archive("run_1", first, last), expected)


@pytest.mark.parametrize("pieces", [[], [Candidates.empty()], pieces_of(300, per_frame=0)])
async def test_a_run_without_candidates_has_an_archive_too(
    scenario: Scenario, stores: Stores, pieces: list[Candidates]
) -> None:
    await stores.archive.write("run_1", one_by_one(pieces))
    assert_equal(await scenario.read_archive("run_1"), Candidates.empty())
    assert await stores.archive.ids() == {"run_1"}


async def test_writing_again_replaces(scenario: Scenario, stores: Stores) -> None:
    await stores.archive.write("run_1", one_by_one(pieces_of(10)))
    again = pieces_of(20)
    await stores.archive.write("run_1", one_by_one(again))
    assert_equal(await scenario.read_archive("run_1"), Candidates.concatenate(again))


async def test_a_write_that_fails_leaves_what_was_there(scenario: Scenario, stores: Stores) -> None:
    async def broken() -> AsyncIterator[Candidates]:
        for piece in pieces_of(3000):
            yield piece
        raise StorageError("the database went away")

    with pytest.raises(StorageError):
        await stores.archive.write("run_1", broken())
    with pytest.raises(StorageError):
        await scenario.read_archive("run_1")
    pieces = pieces_of(10)
    await stores.archive.write("run_1", one_by_one(pieces))
    with pytest.raises(StorageError):
        await stores.archive.write("run_1", broken())
    assert_equal(await scenario.read_archive("run_1"), Candidates.concatenate(pieces))


async def test_boxes_can_be_left_out(scenario: Scenario, stores: Stores) -> None:
    pieces = pieces_of(10)
    await stores.archive.write("run_1", one_by_one(pieces))
    groups = stores.archive.read("run_1", first_frame=0, last_frame=None, with_boxes=False)
    whole = Candidates.concatenate(pieces)
    expected = replace(whole, boxes_xyxy=np.zeros_like(whole.boxes_xyxy))
    assert_equal(Candidates.concatenate([group async for group in groups]), expected)


async def test_a_run_without_an_archive_cannot_be_read(scenario: Scenario, stores: Stores) -> None:
    with pytest.raises(StorageError):
        await scenario.read_archive("run_1")


async def test_a_removed_archive_is_gone_and_removing_twice_is_no_error(scenario: Scenario, stores: Stores) -> None:
    await stores.archive.write("run_1", one_by_one(pieces_of(10)))
    await stores.archive.remove("run_1")
    await stores.archive.remove("run_1")
    assert await stores.archive.ids() == frozenset()
    with pytest.raises(StorageError):
        await scenario.read_archive("run_1")


async def test_parts_and_archive_hold_the_same(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=9, frames=300)
    await scenario.work_to_the_end()
    from_parts = await scenario.read_parts(job.run_id)
    await scenario.finish(job)
    assert_equal(await scenario.read_archive(job.run_id), from_parts)
