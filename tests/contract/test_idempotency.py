"""Every `JobStore`: submits under a key."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.records import KEY_KEPT_FOR, IdempotencyKey
from orchestrator.core.states import JobState
from orchestrator.errors import (
    IdempotencyKeyInvalidError,
    IdempotencyKeyReusedError,
    JobNotFoundError,
    VideoNotFoundError,
)
from orchestrator.ports import Stores
from tests.contract.scenario import Scenario

PARALLEL = 50


async def test_the_same_submit_again_is_the_same_job_as_it_is_by_now(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    first, is_known = await scenario.submit_once(video, "k")
    assert (first.state, is_known) == (JobState.QUEUED, False)
    await scenario.admit()
    again, is_known = await scenario.submit_once(video, "k")
    assert (again.id, again.state, is_known) == (first.id, JobState.RUNNING, True)
    assert again == await stores.jobs.submitted(IdempotencyKey(text="k", request_sha256="a" * 64), owner="ann")
    assert len((await stores.jobs.page(limit=10, cursor=None)).items) == 1


async def test_a_key_is_its_owners(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    jobs = [
        await scenario.submit_once(video, text, owner=owner)
        for text, owner in (("k", "ann"), ("k", "ben"), ("l", "ann"))
    ]
    assert [is_known for _, is_known in jobs] == [False, False, False]
    assert len({job.id for job, _ in jobs}) == 3
    assert await stores.jobs.submitted(IdempotencyKey(text="m", request_sha256="a" * 64), owner="ann") is None


async def test_a_key_for_something_else_is_refused_and_leaves_nothing(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    await scenario.submit_once(video, "k")
    with pytest.raises(IdempotencyKeyReusedError):
        await scenario.submit_once(video, "k", request="b", every_nth=2)
    with pytest.raises(IdempotencyKeyReusedError):
        await stores.jobs.submitted(IdempotencyKey(text="k", request_sha256="b" * 64), owner="ann")
    assert len(await stores.runs.ids()) == len((await stores.jobs.page(limit=10, cursor=None)).items) == 1


async def test_submits_at_once_under_one_key_make_one_job(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    submits = await asyncio.gather(*(scenario.submit_once(video, "k") for _ in range(PARALLEL)))
    assert len({job.id for job, _ in submits}) == 1
    assert sorted(is_known for _, is_known in submits) == [False] + [True] * (PARALLEL - 1)
    assert len((await stores.jobs.page(limit=10, cursor=None)).items) == 1


async def test_a_job_that_was_deleted_is_not_brought_back(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    job, _ = await scenario.submit_once(video, "k")
    await stores.jobs.remove(job.id)
    with pytest.raises(JobNotFoundError):
        await scenario.submit_once(video, "k")
    assert await stores.runs.ids() == frozenset()


async def test_a_submit_that_fails_takes_no_key(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    await stores.videos.remove(video.id)
    with pytest.raises(VideoNotFoundError):
        await scenario.submit_once(video, "k")
    _, is_known = await scenario.submit_once(await scenario.add_video(), "k", request="b")
    assert not is_known


async def test_keys_are_kept_for_a_day_and_then_forgotten(scenario: Scenario, stores: Stores) -> None:
    video = await scenario.add_video()
    first, _ = await scenario.submit_once(video, "k")
    scenario.now += KEY_KEPT_FOR
    assert await scenario.submit_once(video, "k") == (first, True)
    scenario.later(1)
    other, is_known = await scenario.submit_once(video, "k", request="b")
    assert (other.id != first.id, is_known) == (True, False)


@pytest.mark.parametrize("text", ["", "x" * 256, "two words", "\n", "über"])
def test_an_odd_key_is_refused(text: str) -> None:
    with pytest.raises(IdempotencyKeyInvalidError):
        IdempotencyKey(text=text, request_sha256="a" * 64)
