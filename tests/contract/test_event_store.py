"""Every `EventStore`, and what the other stores tell it."""

from __future__ import annotations

from orchestrator.core.records import EventKind, Job
from orchestrator.ports import Stores
from tests.contract.scenario import FAILURE, Scenario


async def told(stores: Stores, job: Job) -> list[tuple[str, object]]:
    """Kind, and state or segment number, of all events of a job."""
    events = await stores.events.after(job, last_id=0, limit=1000)
    assert [event.id for event in events] == sorted({event.id for event in events})
    return [(event.kind.value, event.body.get("state", event.body.get("segment"))) for event in events]


async def test_there_is_nothing_at_first(scenario: Scenario, stores: Stores) -> None:
    assert await stores.events.last_id() == 0
    assert await stores.events.of_all_jobs_after(last_id=0, limit=10) == []


async def test_a_jobs_life_is_told_in_order(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=2, frames=4)
    await scenario.finish(job)
    assert await told(stores, job) == [
        ("state", "queued"),
        ("state", "running"),
        ("segment", 0),
        ("segment", 1),
        ("state", "succeeded"),
        ("done", "succeeded"),
    ]
    events = await stores.events.after(job, last_id=0, limit=10)
    assert events[0].body == {"job_id": job.id, "state": "queued", "attempt": 1}
    assert (events[0].job_id, events[0].run_id, events[0].created_at) == (job.id, None, scenario.now)
    assert (events[3].job_id, events[3].run_id) == (None, job.run_id)
    assert events[3].body == {
        "segment": 1,
        "first_frame": 8,
        "last_frame": 14,
        "frames": 4,
        "inferred": 4,
        "failed": 0,
        "candidates": 4,
        "frames_done": 8,
        "frames_total": 8,
    }
    assert events[5].body == {
        "job_id": job.id,
        "state": "succeeded",
        "error": None,
        "frames_done": 8,
        "frames_total": 8,
    }
    assert events[5].id == await stores.events.last_id()


async def test_failed_frames_are_counted_in_the_segments_event(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=2, frames=4)
    await scenario.commit(await scenario.lease_one(), failing=1)
    event = (await stores.events.after(job, last_id=0, limit=10))[-1]
    assert {name: event.body[name] for name in ("frames", "inferred", "failed", "last_frame", "frames_done")} == {
        "frames": 4,
        "inferred": 3,
        "failed": 1,
        "last_frame": 6,
        "frames_done": 4,
    }


async def test_reading_goes_on_after_the_last_id_seen(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=5)
    await scenario.work_to_the_end()
    everything = await stores.events.after(job, last_id=0, limit=100)
    pieces: list[int] = []
    while some := await stores.events.after(job, last_id=pieces[-1] if pieces else 0, limit=2):
        pieces += [event.id for event in some]
    assert pieces == [event.id for event in everything]


async def test_a_job_that_joins_late_sees_every_segment_once(scenario: Scenario, stores: Stores) -> None:
    first = await scenario.start(segments=3)
    await scenario.commit(await scenario.lease_one())
    late = await scenario.submit(await stores.videos.get(first.video_id))
    await scenario.admit()
    await scenario.finish(first)
    after_the_end = await scenario.submit(await stores.videos.get(first.video_id))
    for job in (first, late, after_the_end):
        segments = [number for kind, number in await told(stores, job) if kind == "segment"]
        assert segments == [0, 1, 2]
        assert (await told(stores, job))[-1] == ("done", "succeeded")


async def test_a_job_sees_nothing_of_other_runs_and_jobs(scenario: Scenario, stores: Stores) -> None:
    one = await scenario.start(segments=1, content="a")
    other = await scenario.start(segments=1, content="b")
    await scenario.work_to_the_end()
    assert await told(stores, one) == [("state", "queued"), ("state", "running"), ("segment", 0)]
    assert len(await told(stores, other)) == 3


async def test_a_failure_is_told_with_its_code_and_sentence(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=2)
    await scenario.commit(await scenario.lease_one())
    await stores.runs.fail(job.run_id, FAILURE, now=scenario.now)
    state, done = (await stores.events.after(job, last_id=0, limit=10))[-2:]
    assert state.body == {"job_id": job.id, "state": "failed", "attempt": 1, "reason": FAILURE.code}
    assert done.body["error"] == {"code": FAILURE.code, "message": FAILURE.message}
    assert (done.body["frames_done"], done.body["frames_total"]) == (4, 8)


async def test_a_cancelled_job_is_done(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start()
    await stores.jobs.cancel(job.id, now=scenario.now)
    await stores.jobs.settle_cancelled(now=scenario.now)
    assert (await told(stores, job))[2:] == [("state", "cancelling"), ("state", "cancelled"), ("done", "cancelled")]


async def test_all_jobs_are_told_of_without_segments(scenario: Scenario, stores: Stores) -> None:
    one = await scenario.start(segments=1, content="a")
    other = await scenario.start(segments=1, content="b")
    await scenario.finish(one)
    events = await stores.events.of_all_jobs_after(last_id=0, limit=100)
    assert {event.kind for event in events} == {EventKind.STATE, EventKind.DONE}
    assert [event.job_id for event in events] == [one.id, one.id, other.id, other.id, one.id, one.id]
    later = await stores.events.of_all_jobs_after(last_id=events[2].id, limit=1)
    assert list(later) == [events[3]]


async def test_ids_are_never_used_again(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.submit(await scenario.add_video())
    seen = await stores.events.last_id()
    await stores.jobs.remove(job.id)
    job = await scenario.submit(await stores.videos.get(job.video_id))
    assert [event.id > seen for event in await stores.events.after(job, last_id=0, limit=9)] == [True]


async def test_the_end_of_a_job_is_known_by_its_id(scenario: Scenario, stores: Stores) -> None:
    job = await scenario.start(segments=1)
    assert await stores.events.done_id(job.id) is None
    await scenario.finish(job)
    events = await stores.events.after(job, last_id=0, limit=100)
    assert await stores.events.done_id(job.id) == events[-1].id
