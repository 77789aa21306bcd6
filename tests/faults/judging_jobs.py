"""I1 to I5: jobs, their segments and their detections."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.faults.evidence import DELETED, FAILED, SUCCEEDED, TERMINAL, AcceptedJob, Evidence, Fields

# Of a run and a job while somebody works on them.
MOVING_RUNS: Final = frozenset({"finalizing"})
FRAMES_FAILED: Final = "frames_failed"


def lost_jobs(evidence: Evidence) -> Iterator[str]:
    """I1."""
    rows = {row["id"]: row for row in evidence.rows.jobs}
    for job in evidence.accepted:
        answer, row = evidence.told[job.id].answer, rows.get(job.id)
        if DELETED in job.ends and answer is None and row is None:
            continue
        if answer is None or row is None:
            yield f"{job.id} was accepted and is gone (API: {_state(answer)}, database: {_state(row)})"
        elif answer["state"] != row["state"]:
            yield f"{job.id} is {answer['state']} to the API and {row['state']} in the database"
        elif answer["state"] not in job.ends:
            yield f"{job.id} ended as {answer['state']} ({_why(answer)}), not as {' or '.join(sorted(job.ends))}"
        elif answer["state"] == FAILED and answer["error"]["code"] not in job.error_codes:
            yield f"{job.id} failed with {_why(answer)}"
    for damage in evidence.rows.damage:
        yield f"the database is damaged: {damage}"


def stuck_work(evidence: Evidence) -> Iterator[str]:
    """I2: the scenario has waited for all ends, so nothing may still be in anybody's hands."""
    for row in evidence.rows.jobs:
        if row["state"] not in TERMINAL:
            yield f"{row['id']} is still {row['state']}"
    for row in evidence.rows.runs:
        if row["state"] in MOVING_RUNS:
            yield f"{row['id']} is still {row['state']}"
    for row in evidence.rows.segments:
        if row["state"] == "leased":
            yield f"segment {row['number']} of {row['run_id']} is still leased, until {row['leased_until']}"


def miscounted_frames(evidence: Evidence) -> Iterator[str]:
    """I3: in the database, in the files and in the answers."""
    rows = evidence.rows
    for run in rows.runs:
        segments = sorted((row for row in rows.segments if row["run_id"] == run["id"]), key=lambda row: row["number"])
        yield from (f"{run['id']}: {complaint}" for complaint in _miscounted_segments(run, segments))
        yield from (f"{run['id']}: {complaint}" for complaint in _miscounted_parts(run, segments, evidence))
    for job in evidence.accepted:
        yield from (f"{job.id}: {complaint}" for complaint in _miscounted_answers(job, evidence))


def _miscounted_segments(run: Fields, segments: list[Fields]) -> Iterator[str]:
    if run["segments_total"] is None:
        if segments:
            yield f"{len(segments)} segments before it was planned"
        return
    if [row["number"] for row in segments] != [*range(run["segments_total"])]:
        yield f"segments {[row['number'] for row in segments]} instead of {run['segments_total']}"
        return
    if segments and segments[0]["first_sample"] != 0:
        yield "its first segment does not begin with the first frame"
    for before, after in pairwise(segments):
        if after["first_sample"] != before["last_sample"] + 1:
            yield f"a gap or an overlap between segments {before['number']} and {after['number']}"
    done = [row for row in segments if row["state"] == "done"]
    ledger = run["ledger"]
    planned = sum(row["last_sample"] - row["first_sample"] + 1 for row in segments)
    settled = sum(row["last_sample"] - row["first_sample"] + 1 for row in done)
    failed = sum(len(row["failed_frames"] or ()) for row in done)
    told = (run["segments_done"], run["frames_total"], ledger["planned"], ledger["failed"])
    counted = (len(done), planned, planned, failed)
    if told != counted:
        yield f"it tells of {told} segments done and frames in all, planned and failed; its rows of {counted}"
    if ledger["inferred"] + ledger["failed"] != settled:
        yield f"{ledger['inferred']} frames inferred and {ledger['failed']} failed, but {settled} in done segments"
    if run["state"] == SUCCEEDED and len(done) != len(segments):
        yield f"it succeeded with {len(segments) - len(done)} segments not done"


def _miscounted_parts(run: Fields, segments: list[Fields], evidence: Evidence) -> Iterator[str]:
    done = {row["number"] for row in segments if row["state"] == "done"}
    events = [row["body"] for row in evidence.rows.events if row["run_id"] == run["id"] and row["kind"] == "segment"]
    times_told = Counter(body["segment"] for body in events)
    if times_told != Counter(done):
        yield f"segments {sorted(times_told.elements())} have events, segments {sorted(done)} are done"
        return
    candidates = {body["segment"]: body["candidates"] for body in events}
    parts = {number: size for (run_id, number), size in evidence.rows.part_sizes.items() if run_id == run["id"]}
    in_file = evidence.files.result_frames.get(run["id"])
    if run["state"] == SUCCEEDED:
        if parts:
            yield f"it succeeded, and segments {sorted(parts)} still have parts"
        if in_file is None:
            yield "it succeeded, and its results are missing"
        elif len(in_file) != sum(candidates.values()):
            yield f"{len(in_file)} candidates in its file, {sum(candidates.values())} were committed"
        elif list(in_file) != sorted(in_file):
            yield "its file is not in the order of frames"
    elif parts != candidates and run["failure"] is None:
        yield f"parts of {parts} candidates by segment, {candidates} were committed"


def _miscounted_answers(job: AcceptedJob, evidence: Evidence) -> Iterator[str]:
    told = evidence.told[job.id]
    if told.answer is None or told.answer["state"] != SUCCEEDED or not told.is_whole:
        return
    frames = [json.loads(line) for line in told.lines]
    indices = [frame["frame_index"] for frame in frames]
    if any(after <= before for before, after in pairwise(indices)):
        yield "frames come twice or out of order"
    if len(indices) != told.answer["ledger"]["planned"]:
        yield f"{len(indices)} frames are told of, {told.answer['ledger']['planned']} were planned"
    for frame in frames:
        boxes = Counter(json.dumps(box, sort_keys=True) for box in frame.get("detections", ()))
        if boxes and max(boxes.values()) > 1:
            yield f"frame {frame['frame_index']} has one detection twice"
    failed = sum(frame.get("failed") is not None for frame in frames)
    if failed != told.answer["ledger"]["failed"]:
        yield f"{failed} frames are told of as failed, {told.answer['ledger']['failed']} in the ledger"


def other_detections(evidence: Evidence) -> Iterator[str]:
    """I4: canonical JSON, line by line."""
    for job in evidence.accepted:
        told = evidence.told[job.id]
        if told.answer is None or told.answer["state"] != SUCCEEDED or not told.is_whole:
            continue
        if told.lines == job.undisturbed.lines:
            continue
        pairs = zip(told.lines, job.undisturbed.lines, strict=False)
        first = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
        if first is None:
            yield f"{job.id} has {len(told.lines)} frames, {len(job.undisturbed.lines)} undisturbed"
        else:
            yield f"{job.id}: line {first} is {told.lines[first]:.300}, {job.undisturbed.lines[first]:.300} undisturbed"


def untold_losses(evidence: Evidence) -> Iterator[str]:
    """I5: a fault around a whole video costs none of its frames, and one that did would be told."""
    for job in evidence.accepted:
        answer = evidence.told[job.id].answer
        if answer is None or answer["state"] != SUCCEEDED:
            continue
        ledger = answer["ledger"]
        if ledger["inferred"] == 0 or ledger["planned"] != ledger["inferred"] + ledger["failed"]:
            yield f"{job.id} succeeded with the ledger {dict(ledger)}"
        if ledger["failed"] and FRAMES_FAILED not in answer["warnings"]:
            yield f"{job.id} succeeded without a word of its {ledger['failed']} failed frames"
        if sorted(answer["warnings"]) != sorted(job.undisturbed.warnings):
            yield f"{job.id} warns of {answer['warnings']}, undisturbed of {list(job.undisturbed.warnings)}"


def _state(fields: Fields | None) -> str:
    return "not there" if fields is None else str(fields["state"])


def _why(answer: Fields) -> str:
    error = answer["error"]
    return f"{error['code']}: {error['message']}" if error else "no error"
