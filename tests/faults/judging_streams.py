"""I7 and I8: what followers were told, and what is told again to who asks later.

There are no webhooks yet; I7 is what the streams owe: every end told once, in order, and replayable.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from orchestrator.core.states import NEXT_JOB_STATES, JobState
from tests.faults.evidence import TERMINAL, Evidence, Fields, FollowedStream, ToldEvent, ToldJob

NO_CONTENT = 204


def untold_events(evidence: Evidence) -> Iterator[str]:
    """I7."""
    for job_id, told in evidence.told.items():
        if told.is_whole and told.answer is not None and told.answer["state"] in TERMINAL:
            yield from (f"{job_id}: {complaint}" for complaint in _bad_replay(told))
    for stream in evidence.streams:
        told = evidence.told[stream.job_id]
        yield from (f"follower of {stream.job_id}: {complaint}" for complaint in _bad_stream(stream, told))
    ends = Counter(row["job_id"] for row in evidence.rows.events if row["kind"] == "done")
    for row in evidence.rows.jobs:
        if row["state"] in TERMINAL and ends[row["id"]] != 1:
            yield f"{row['id']} is {row['state']} and has {ends[row['id']]} done events"


def _bad_replay(told: ToldJob) -> Iterator[str]:
    events = _durable(told.replay)
    kinds = [event.kind for event in events]
    if kinds.count("done") != 1 or kinds[-1:] != ["done"]:
        yield f"its replay has {kinds.count('done')} ends, the last event is {kinds[-1:]}"
    elif told.answer is not None and events[-1].body["state"] != told.answer["state"]:
        yield f"its end is told as {events[-1].body['state']}, it is {told.answer['state']}"
    yield from _out_of_order(events)
    segments = [event.body["segment"] for event in events if event.kind == "segment"]
    if len(set(segments)) != len(segments):
        yield f"its replay tells a segment twice: {segments}"
    if told.status_after_end != NO_CONTENT:
        yield f"who has seen its end and asks again is answered {told.status_after_end}"


def _bad_stream(stream: FollowedStream, told: ToldJob) -> Iterator[str]:
    events = _durable(stream.events)
    yield from _out_of_order(events)
    for connection in stream.connections:
        early = [event.id for event in _durable(connection.events) if (event.id or 0) <= connection.after_id]
        if early:
            yield f"it asked for what follows {connection.after_id} and was told {early}"
    if told.answer is None or told.answer["state"] not in TERMINAL:
        return
    replay = _durable(told.replay)
    # Who left with the end of an attempt that was retried has heard all until there; that end itself is taken back.
    has_left = bool(events and replay) and events[-1].kind == "done" and events[-1].id != replay[-1].id
    last_id = events[-1].id if events and not has_left else None
    heard = [_plain(event) for event in events if event.kind != "done" or event.id == last_id]
    owed = [_plain(event) for event in (replay[: len(heard)] if has_left else replay)]
    if heard != owed:
        missed = [event[:2] for event in owed if event not in heard]
        made_up = [event[:2] for event in heard if event not in owed]
        yield f"it was not told {missed}, and was told {made_up} that nobody is told later"
    elif has_left and not any(event.body.get("state") == JobState.QUEUED for event in replay[len(heard) :]):
        yield "it was told an end, and the job was never queued again"


def _plain(event: ToldEvent) -> tuple[int | None, str, Fields]:
    return event.id, event.kind, event.body


def _out_of_order(events: Sequence[ToldEvent]) -> Iterator[str]:
    ids = [event.id or 0 for event in events]
    for before, after in pairwise(ids):
        if after <= before:
            yield f"event {after} was told after event {before}"


def _durable(events: Sequence[ToldEvent]) -> list[ToldEvent]:
    return [event for event in events if event.id is not None]


def progress_going_back(evidence: Evidence) -> Iterator[str]:
    """I8: on one connection; who connects again may hear less, since what a dead program had inferred is lost with it.

    States are walked by the table of the product, attempts only grow.
    """
    for stream in evidence.streams:
        for connection in stream.connections:
            yield from (f"{stream.job_id}: {complaint}" for complaint in _falling_progress(connection.events))
        yield from (f"{stream.job_id}: {complaint}" for complaint in _falling_commits(stream.events))
    states: defaultdict[str, list[Fields]] = defaultdict(list)
    for event in sorted(evidence.rows.events, key=lambda event: event["id"]):
        if event["kind"] == "state":
            states[event["job_id"]].append(event["body"])
    for row in evidence.rows.jobs:
        yield from (f"{row['id']}: {complaint}" for complaint in _impossible_walk(states[row["id"]], row))


def _falling_progress(events: Sequence[ToldEvent]) -> Iterator[str]:
    """Progress counts what is inferred and not yet committed too, so it never lags behind the segments told before."""
    most = 0
    for event in events:
        if event.kind == "state" and event.body["state"] == JobState.QUEUED:
            most = 0
        if event.kind != "progress":
            continue
        done, total = event.body["frames_done"], event.body["frames_total"]
        if done < most:
            yield f"progress fell from {most} to {done} frames"
        if total is not None and done > total:
            yield f"progress tells of {done} of {total} frames"
        most = max(most, done)


def _falling_commits(events: Sequence[ToldEvent]) -> Iterator[str]:
    committed = [event.body["frames_done"] for event in events if event.kind == "segment"]
    for before, after in pairwise(committed):
        if after <= before:
            yield f"committed frames went from {before} to {after}"


def _impossible_walk(states: Sequence[Fields], row: Fields) -> Iterator[str]:
    if [body["state"] for body in states][:1] != [JobState.QUEUED]:
        yield f"its first state is {[body['state'] for body in states][:1]}"
    for before, after in pairwise(states):
        if after["state"] not in NEXT_JOB_STATES[JobState(before["state"])]:
            yield f"{after['state']} followed {before['state']}"
        if after["attempt"] != before["attempt"] + (after["state"] == JobState.QUEUED):
            yield f"attempt {after['attempt']} ({after['state']}) followed {before['attempt']} ({before['state']})"
    if states and (states[-1]["state"], states[-1]["attempt"]) != (row["state"], row["attempt"]):
        yield f"it is {row['state']}, and its last event tells {states[-1]['state']}"
