"""The checker of `tests/faults` is shown evidence that was tampered with, and must say which invariant is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from tests.faults.checker import INVARIANTS, check, complaints_about
from tests.faults.evidence import (
    AcceptedJob,
    Connection,
    ErrorAnswer,
    Evidence,
    Files,
    FollowedStream,
    Footprint,
    Leftovers,
    PlannedFault,
    Probe,
    Rows,
    ToldEvent,
    ToldJob,
    Truth,
    Undisturbed,
)

JOB: Final = "job_1"
RUN: Final = "run_1"
VIDEO: Final = "vid_1"
FRAMES: Final = 6
BOX: Final = {"class_id": 1, "confidence": 0.5, "xyxy": [1.0, 2.0, 3.0, 4.0]}
LINES: Final = tuple(json.dumps({"frame_index": frame, "detections": [BOX]}) for frame in range(FRAMES))
LEDGER: Final = {"planned": FRAMES, "inferred": FRAMES, "failed": 0, "skipped": 0, "reasons": {}}
DONE: Final = {"job_id": JOB, "state": "succeeded", "error": None, "frames_done": FRAMES, "frames_total": FRAMES}


def state(name: str, attempt: int = 1) -> dict[str, Any]:
    return {"job_id": JOB, "state": name, "attempt": attempt}


def segment(number: int, frames_done: int) -> dict[str, Any]:
    return {"job_id": JOB, "segment": number, "candidates": 3, "frames_done": frames_done}


def progress(frames_done: int) -> ToldEvent:
    return ToldEvent(kind="progress", id=None, body={"frames_done": frames_done, "frames_total": FRAMES})


def durable() -> tuple[ToldEvent, ...]:
    """The job's events, as everybody is told them."""
    bodies = [
        ("state", state("queued")),
        ("state", state("running")),
        ("segment", segment(0, 3)),
        ("segment", segment(1, 6)),
        ("state", state("succeeded")),
        ("done", DONE),
    ]
    return tuple(ToldEvent(kind=kind, id=number, body=body) for number, (kind, body) in enumerate(bodies, start=1))


def event_rows() -> list[dict[str, Any]]:
    return [
        {
            "id": event.id,
            "kind": event.kind,
            "job_id": None if event.kind == "segment" else JOB,
            "run_id": RUN if event.kind == "segment" else None,
            "body": event.body,
        }
        for event in durable()
    ]


def segment_row(number: int) -> dict[str, Any]:
    return {
        "run_id": RUN,
        "number": number,
        "first_sample": 3 * number,
        "last_sample": 3 * number + 2,
        "state": "done",
        "leased_until": None,
        "failed_frames": None,
    }


def honest() -> Evidence:
    """Of a job that a kill has not harmed."""
    answer = {"state": "succeeded", "error": None, "ledger": LEDGER, "warnings": []}
    run = {
        "id": RUN,
        "state": "succeeded",
        "segments_total": 2,
        "segments_done": 2,
        "frames_total": FRAMES,
        "ledger": LEDGER,
        "failure": None,
    }
    events = durable()
    first = Connection(after_id=0, events=(*events[:2], progress(2), events[2], progress(3)))
    second = Connection(after_id=3, events=(progress(3), *events[3:]))
    return Evidence(
        seed=7,
        faults=(PlannedFault(name="kill -9 of api", hits=("api (1)",)),),
        accepted=(AcceptedJob(id=JOB, undisturbed=Undisturbed(lines=LINES)),),
        told={JOB: ToldJob(answer=answer, lines=LINES, replay=events, status_after_end=204)},
        streams=(FollowedStream(job_id=JOB, connections=(first, second)),),
        rows=Rows(
            videos=[{"id": VIDEO, "index_state": "ready"}],
            runs=[run],
            segments=[segment_row(0), segment_row(1)],
            jobs=[{"id": JOB, "state": "succeeded", "attempt": 1}],
            events=event_rows(),
        ),
        files=Files(
            paths=frozenset({f"videos/{VIDEO}/content", f"videos/{VIDEO}/index", f"runs/{RUN}/candidates.parquet"}),
            result_frames={RUN: (0, 1, 2, 3, 4, 5)},
        ),
        errors=(problem(code="storage_failed"),),
        probes=(probe("/healthz", 20.0, 200), probe("/readyz", 20.0, 200), probe("/readyz", 40.0, 503)),
        truths=(
            Truth(name="api", changes=((0.0, True),)),
            Truth(name="triton", changes=((0.0, True), (30.0, False), (50.0, True))),
        ),
        leftovers=Leftovers(before=(footprint(),), after=(footprint(),)),
    )


def problem(*, code: str, status: int = 503, **more: object) -> ErrorAnswer:
    body = {"code": code, "status": status, "detail": "a sentence", **more}
    return ErrorAnswer(
        request="GET /v1/jobs", status=status, content_type="application/problem+json", body=json.dumps(body)
    )


def probe(path: str, at_s: float, status: int | None, *, took_s: float = 0.1) -> Probe:
    return Probe(path=path, at_s=at_s, took_s=took_s, status=status)


def footprint(*, descriptors: int = 20, children: int = 1, rss_mb: float = 100.0, slots_free: int = 4) -> Footprint:
    return Footprint(program="api", descriptors=descriptors, children=children, rss_mb=rss_mb, slots_free=slots_free)


def with_told(evidence: Evidence, **changes: Any) -> Evidence:
    """changes: of the job as the API tells of it; those of its answer by their own names."""
    told = evidence.told[JOB]
    of_answer = {name: changes.pop(name) for name in list(changes) if name not in ToldJob.__slots__}
    if of_answer:
        changes["answer"] = {**(told.answer or {}), **of_answer}
    return replace(evidence, told={JOB: replace(told, **changes)})


def with_row(evidence: Evidence, table: str, at: int, **changes: Any) -> Evidence:
    rows = list(getattr(evidence.rows, table))
    rows[at] = {**rows[at], **changes}
    return replace(evidence, rows=replace(evidence.rows, **{table: rows}))


def without_row(evidence: Evidence, table: str, at: int) -> Evidence:
    rows = [row for number, row in enumerate(getattr(evidence.rows, table)) if number != at]
    return replace(evidence, rows=replace(evidence.rows, **{table: rows}))


def with_files(evidence: Evidence, **changes: Any) -> Evidence:
    return replace(evidence, files=replace(evidence.files, **changes))


def with_heard(evidence: Evidence, *events: ToldEvent, after_id: int = 0) -> Evidence:
    """A follower that heard these, on one connection."""
    connection = Connection(after_id=after_id, events=events)
    return replace(evidence, streams=(FollowedStream(job_id=JOB, connections=(connection,)),))


def with_lines(evidence: Evidence, *lines: str) -> Evidence:
    """As if an undisturbed run had given them too."""
    accepted = replace(evidence.accepted[0], undisturbed=Undisturbed(lines=lines))
    return with_told(replace(evidence, accepted=(accepted,)), lines=lines)


Doctor = Callable[[Evidence], Evidence]
LEDGER_WITH_A_LOSS: Final = {**LEDGER, "inferred": 5, "failed": 1}
# What was done to honest evidence, by the invariant that it breaks.
DOCTORED: Final[dict[str, dict[str, Doctor]]] = {
    "I0": {
        "never fired": lambda e: replace(e, faults=(PlannedFault(name="kill", hits=()),)),
        "none planned": lambda e: replace(e, faults=()),
    },
    "I1": {
        "gone from the API": lambda e: replace(e, told={JOB: ToldJob(answer=None)}),
        "gone from the database": lambda e: without_row(e, "jobs", 0),
        "two truths": lambda e: with_row(e, "jobs", 0, state="cancelled"),
        "ended otherwise": lambda e: with_told(
            with_row(e, "jobs", 0, state="failed"),
            state="failed",
            error={"code": "storage_failed", "message": "no"},
        ),
        "failed for another reason": lambda e: with_told(
            replace(
                with_row(e, "jobs", 0, state="failed"),
                accepted=(replace(e.accepted[0], ends=frozenset({"failed"}), error_codes=frozenset({"disk_full"})),),
            ),
            state="failed",
            error={"code": "storage_failed", "message": "no"},
        ),
        "damaged": lambda e: replace(e, rows=replace(e.rows, damage=("row 3 missing from index",))),
    },
    "I2": {
        "running for ever": lambda e: with_row(e, "jobs", 0, state="running"),
        "finalizing for ever": lambda e: with_row(e, "runs", 0, state="finalizing"),
        "leased for ever": lambda e: with_row(e, "segments", 1, state="leased"),
    },
    "I3": {
        "a segment lost": lambda e: without_row(e, "segments", 0),
        "segments overlap": lambda e: with_row(e, "segments", 1, first_sample=2),
        "a frame before the first": lambda e: with_row(e, "segments", 0, first_sample=1),
        "counter of segments": lambda e: with_row(e, "runs", 0, segments_done=1),
        "counter of frames": lambda e: with_row(e, "runs", 0, ledger={**LEDGER, "inferred": 5}),
        "counter of failures": lambda e: with_row(e, "segments", 0, failed_frames=[[0, "x"]]),
        "succeeded too early": lambda e: with_row(e, "segments", 1, state="open"),
        "segments without a plan": lambda e: with_row(e, "runs", 0, segments_total=None),
        "an event twice": lambda e: replace(
            e, rows=replace(e.rows, events=[*e.rows.events, {**e.rows.events[2], "id": 9}])
        ),
        "an event lost": lambda e: without_row(e, "events", 2),
        "parts left": lambda e: replace(e, rows=replace(e.rows, part_sizes={(RUN, 0): 3})),
        "a part lost": lambda e: with_row(
            replace(e, rows=replace(e.rows, part_sizes={(RUN, 0): 3})), "runs", 0, state="open"
        ),
        "a part cut": lambda e: with_row(
            replace(e, rows=replace(e.rows, part_sizes={(RUN, 0): 3, (RUN, 1): 2})), "runs", 0, state="open"
        ),
        "results missing": lambda e: with_files(e, result_frames={}),
        "results cut": lambda e: with_files(e, result_frames={RUN: (0, 1, 2)}),
        "results shuffled": lambda e: with_files(e, result_frames={RUN: (1, 0, 2, 3, 4, 5)}),
        "a frame twice": lambda e: with_lines(e, *LINES[:5], LINES[4]),
        "a frame missing": lambda e: with_lines(e, *LINES[:5]),
        "a box twice": lambda e: with_lines(e, *LINES[:5], json.dumps({"frame_index": 5, "detections": [BOX, BOX]})),
        "a failed frame untold": lambda e: with_lines(e, *LINES[:5], json.dumps({"frame_index": 5, "failed": "x"})),
    },
    "I4": {
        "another box": lambda e: with_told(e, lines=(*LINES[:5], LINES[5].replace("0.5", "0.6"))),
        "a frame less": lambda e: with_told(e, lines=LINES[:5]),
    },
    "I5": {
        "a loss": lambda e: with_told(e, ledger=LEDGER_WITH_A_LOSS, warnings=["frames_failed"]),
        "a loss untold": lambda e: with_told(e, ledger=LEDGER_WITH_A_LOSS),
        "sums that do not add up": lambda e: with_told(e, ledger={**LEDGER, "inferred": 5}),
        "nothing inferred": lambda e: with_told(e, ledger={**LEDGER, "inferred": 0, "failed": 6}),
        "a warning of nothing": lambda e: with_told(e, warnings=["decode_errors"]),
    },
    "I6": {
        "an orphan": lambda e: replace(e, leftovers=replace(e.leftovers, orphans=("a decoder (3)",))),
        "shared memory": lambda e: with_files(e, regions=frozenset({"trireel_1_ab"})),
        "a temporary file": lambda e: with_files(e, temporary=frozenset({"tmpab"})),
        "half an upload": lambda e: with_files(e, paths=e.files.paths | {"incoming/vid_9/content"}),
        "half a result": lambda e: with_files(e, paths=e.files.paths | {f"runs/{RUN}/candidates.parquet.unfinished"}),
        "a result of nobody": lambda e: with_files(e, paths=e.files.paths | {"runs/run_9/candidates.parquet"}),
        "a video without its file": lambda e: with_files(e, paths=e.files.paths - {f"videos/{VIDEO}/content"}),
        "an index without its file": lambda e: with_files(e, paths=e.files.paths - {f"videos/{VIDEO}/index"}),
        "descriptors": lambda e: replace(e, leftovers=replace(e.leftovers, after=(footprint(descriptors=99),))),
        "processes": lambda e: replace(e, leftovers=replace(e.leftovers, after=(footprint(children=2),))),
        "memory": lambda e: replace(e, leftovers=replace(e.leftovers, after=(footprint(rss_mb=900.0),))),
        "slots": lambda e: replace(e, leftovers=replace(e.leftovers, after=(footprint(slots_free=3),))),
    },
    "I7": {
        "no end": lambda e: with_told(e, replay=durable()[:-1]),
        "two ends": lambda e: with_told(e, replay=(*durable(), replace(durable()[-1], id=7))),
        "another end": lambda e: with_told(e, replay=(*durable()[:-1], replace(durable()[-1], body=state("failed")))),
        "out of order": lambda e: with_told(e, replay=(durable()[1], durable()[0], *durable()[2:])),
        "a segment twice": lambda e: with_told(
            e, replay=(*durable()[:4], replace(durable()[2], id=5), replace(durable()[5], id=6))
        ),
        "not over": lambda e: with_told(e, status_after_end=200),
        "a follower misses one": lambda e: with_heard(e, *durable()[:3], *durable()[4:]),
        "a follower hears one twice": lambda e: with_heard(e, *durable()[:3], *durable()[2:]),
        "a follower hears what nobody else does": lambda e: with_heard(
            e, durable()[0], replace(durable()[1], body=state("cancelling")), *durable()[2:]
        ),
        "a follower hears what it had seen": lambda e: with_heard(e, *durable(), after_id=3),
        "an end that was none": lambda e: with_told(
            with_heard(e, *durable()), replay=(*durable()[:5], replace(durable()[5], id=7))
        ),
        "no end in the database": lambda e: without_row(e, "events", 5),
    },
    "I8": {
        "progress falls": lambda e: with_heard(e, *durable()[:2], progress(3), progress(2), *durable()[2:]),
        "more than all": lambda e: with_heard(e, *durable()[:2], progress(7), *durable()[2:]),
        "commits fall": lambda e: with_heard(
            e, *durable()[:3], replace(durable()[3], body=segment(1, 3)), *durable()[4:]
        ),
        "an impossible state": lambda e: with_row(e, "events", 1, body=state("cancelled")),
        "an attempt from nowhere": lambda e: with_row(e, "events", 4, body=state("succeeded", attempt=2)),
        "never queued": lambda e: without_row(e, "events", 0),
        "a state untold": lambda e: without_row(e, "events", 4),
    },
    "I9": {
        "a traceback": lambda e: replace(e, errors=(problem(code="storage_failed", trace="Traceback (most"),)),
        "a page": lambda e: replace(e, errors=(replace(problem(code="storage_failed"), content_type="text/html"),)),
        "no JSON": lambda e: replace(e, errors=(replace(problem(code="storage_failed"), body="{"),)),
        "an unknown code": lambda e: replace(e, errors=(problem(code="oops"),)),
        "an internal error": lambda e: replace(e, errors=(problem(code="internal_error", status=500),)),
        "another status": lambda e: replace(e, errors=(replace(problem(code="storage_failed"), status=500),)),
        "a job that failed for no reason": lambda e: with_told(
            e, state="failed", error={"code": "internal_error", "message": "a defect"}
        ),
        "an alarm": lambda e: replace(e, log_alarms=("api-1: segment failed unexpectedly",)),
    },
    "I10": {
        "ready while Triton is away": lambda e: replace(e, probes=(probe("/readyz", 40.0, 200),)),
        "not ready while all is well": lambda e: replace(e, probes=(probe("/readyz", 20.0, 503),)),
        "silent while all is well": lambda e: replace(e, probes=(probe("/healthz", 40.0, None),)),
        "slow": lambda e: replace(e, probes=(probe("/healthz", 20.0, 200, took_s=6.0),)),
    },
}


def test_honest_evidence_raises_no_complaint() -> None:
    assert complaints_about(honest()) == []


@pytest.mark.parametrize(
    ("invariant", "name"), [(invariant, name) for invariant, doctors in DOCTORED.items() for name in doctors]
)
def test_tampered_evidence_is_found_out(invariant: str, name: str) -> None:
    tampered = DOCTORED[invariant][name](honest())
    complaints = complaints_about(tampered)
    assert invariant in {complaint.split()[0] for complaint in complaints}, complaints


def test_every_invariant_was_tried() -> None:
    assert [name.split()[0] for name in INVARIANTS] == list(DOCTORED)


def test_a_failure_names_the_seed_the_invariant_and_what_was_hit() -> None:
    with pytest.raises(AssertionError, match=r"(?s)seed 7.*I4 .*job_1.*kill -9 of api: api \(1\)"):
        check(with_told(honest(), lines=LINES[:5]))


@pytest.mark.parametrize("at_s", [31.0, 34.9, 50.5, 54.9])
def test_a_probe_may_tell_what_was_true_until_five_seconds_ago(at_s: float) -> None:
    for status in (200, 503):
        assert complaints_about(replace(honest(), probes=(probe("/readyz", at_s, status),))) == []


@pytest.mark.parametrize("status", [200, 503])
def test_nobody_knows_whether_what_starts_is_ready_already(status: int) -> None:
    triton = Truth(name="triton", changes=((0.0, False), (10.0, None), (30.0, True)))
    truths = (Truth(name="api", changes=((0.0, True),)), triton)
    assert complaints_about(replace(honest(), truths=truths, probes=(probe("/readyz", 20.0, status),))) == []


def test_a_server_that_is_down_need_not_answer() -> None:
    truths = (Truth(name="api", changes=((0.0, True), (10.0, False))),)
    assert complaints_about(replace(honest(), truths=truths, probes=(probe("/healthz", 20.0, None),))) == []


@pytest.mark.parametrize("leaves_at_first_end", [False, True])
def test_a_retry_takes_the_end_before_it_back(leaves_at_first_end: bool) -> None:
    failed = [state("failed"), state("queued", 2), state("running", 2), state("succeeded", 2)]
    later = [ToldEvent(kind="state", id=number, body=body) for number, body in zip((5, 7, 8, 9), failed, strict=True)]
    end = replace(durable()[-1], id=10)
    first_end = ToldEvent(kind="done", id=6, body={**DONE, "state": "failed"})
    evidence = with_told(honest(), replay=(*durable()[:4], *later, end))
    after_first_end = () if leaves_at_first_end else (*later[1:], end)
    evidence = with_heard(evidence, *durable()[:4], later[0], first_end, *after_first_end)
    rows = [{"id": event.id, "kind": "state", "job_id": JOB, "run_id": None, "body": event.body} for event in later]
    rows = [*event_rows()[:4], *rows, {"id": 10, "kind": "done", "job_id": JOB, "run_id": None, "body": DONE}]
    evidence = replace(evidence, rows=replace(evidence.rows, events=rows))
    assert complaints_about(with_row(evidence, "jobs", 0, attempt=2)) == []
