"""Every `VideoStore`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.states import IndexState
from orchestrator.errors import CursorInvalidError, VideoInUseError, VideoNotFoundError
from orchestrator.ports import Stores
from tests.contract.scenario import FAILURE, REPORT, Scenario


async def test_a_video_comes_back_as_it_was_added(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video(is_indexed=False)
    assert await stores.videos.get(video.id) == video
    assert await stores.videos.ids() == {video.id}


async def test_an_unknown_video_is_not_found(stores: Stores) -> None:
    with pytest.raises(VideoNotFoundError):
        await stores.videos.get("vid_0")
    with pytest.raises(VideoNotFoundError):
        await stores.videos.remove("vid_0")
    with pytest.raises(VideoNotFoundError):
        await stores.videos.set_indexed("vid_0", REPORT)
    with pytest.raises(VideoNotFoundError):
        await stores.videos.set_index_failed("vid_0", FAILURE)


async def test_pages_go_from_newest_to_oldest_and_tell_each_video_once(scenario: Scenario, stores: Stores) -> None:
    # All at the same moment: the order is that of insertion all the same.
    ids = [(await scenario.add_video()).id for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    for expected in (2, 2, 1):
        page = await stores.videos.page(limit=2, cursor=cursor)
        assert len(page.items) == expected
        seen += [video.id for video in page.items]
        cursor = page.next_cursor
    assert cursor is None
    assert seen == ids[::-1]


async def test_a_page_that_is_exactly_full_is_the_last_one(scenario: Scenario, stores: Stores) -> None:
    await scenario.add_video()
    assert (await stores.videos.page(limit=1, cursor=None)).next_cursor is None


async def test_a_video_added_between_two_pages_does_not_shift_them(scenario: Scenario, stores: Stores) -> None:
    older, newer = await scenario.add_video(), await scenario.add_video()
    first = await stores.videos.page(limit=1, cursor=None)
    await scenario.add_video()
    second = await stores.videos.page(limit=1, cursor=first.next_cursor)
    assert [video.id for video in (*first.items, *second.items)] == [newer.id, older.id]


@pytest.mark.parametrize("cursor", ["", "x", "nonsense", "AAAA", "/////////", "ü", "_" * 11, "A" * 500])
async def test_a_cursor_of_somebody_elses_is_refused(stores: Stores, cursor: str) -> None:
    with pytest.raises(CursorInvalidError):
        await stores.videos.page(limit=1, cursor=cursor)


async def test_videos_wait_for_their_index_oldest_first(scenario: Scenario, stores: Stores) -> None:
    videos = [await scenario.add_video(is_indexed=False) for _ in range(4)]
    await stores.videos.set_indexed(videos[0].id, REPORT)
    await stores.videos.set_index_failed(videos[2].id, FAILURE)
    assert await stores.videos.pending_index() == [videos[1], videos[3]]
    indexed = replace(videos[0], index_state=IndexState.READY, report=REPORT)
    assert await stores.videos.get(videos[0].id) == indexed
    failed = replace(videos[2], index_state=IndexState.FAILED, index_failure=FAILURE)
    assert await stores.videos.many([videos[0].id, videos[2].id, "vid_0"]) == {indexed.id: indexed, failed.id: failed}


async def test_many_of_none_is_none(stores: Stores) -> None:
    assert await stores.videos.many([]) == {}


async def test_a_removed_video_is_gone(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    await stores.videos.remove(video.id)
    assert await stores.videos.ids() == frozenset()
    with pytest.raises(VideoNotFoundError):
        await stores.videos.get(video.id)


async def test_a_video_stays_while_a_job_refers_to_it_even_a_finished_one(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    job = await scenario.submit(video)
    with pytest.raises(VideoInUseError):
        await stores.videos.remove(video.id)
    await stores.jobs.cancel(job.id, now=scenario.now)
    with pytest.raises(VideoInUseError):
        await stores.videos.remove(video.id)
    await stores.jobs.remove(job.id)
    await stores.videos.remove(video.id)


async def test_a_video_stays_while_another_uploads_job_has_its_run_read_it(scenario: Scenario, stores: Stores) -> None:
    first, same_content = await scenario.add_video(), await scenario.add_video()
    job = await scenario.submit(first)
    await scenario.submit(same_content)
    await stores.jobs.remove(job.id)
    with pytest.raises(VideoInUseError):
        await stores.videos.remove(first.id)
