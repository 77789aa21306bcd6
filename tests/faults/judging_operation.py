"""I6, I9 and I10: what a scenario leaves behind, how errors look, and whether probes tell the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from orchestrator import errors
from orchestrator.web.error_map import CODE_BY_STATUS, INTERNAL_ERROR, PROBLEM_TYPE
from tests.faults.evidence import SUCCEEDED, ErrorAnswer, Evidence, Footprint, Probe

# Each thread of the database keeps a connection of two or three descriptors once it has worked; libraries are read.
MORE_DESCRIPTORS: Final = 24
# pyarrow comes with the first result, and the allocator keeps what a page of detections took.
MORE_RSS_MB: Final = 250.0
# How long a probe may tell what was true before.
GRACE_S: Final = 5.0
API: Final = "api"


def leftovers(evidence: Evidence) -> Iterator[str]:
    """I6."""
    for orphan in evidence.leftovers.orphans:
        yield f"{orphan} outlived its program"
    for name in sorted(evidence.files.regions):
        yield f"/dev/shm/{name} belongs to nobody"
    for name in sorted(evidence.files.temporary):
        yield f"temporary file {name}"
    yield from _unknown_files(evidence)
    before = {footprint.program: footprint for footprint in evidence.leftovers.before}
    for after in evidence.leftovers.after:
        yield from (f"{after.program}: {complaint}" for complaint in _growth(before[after.program], after))


def _unknown_files(evidence: Evidence) -> Iterator[str]:
    succeeded = {run["id"] for run in evidence.rows.runs if run["state"] == SUCCEEDED}
    indexed = {video["id"] for video in evidence.rows.videos if video["index_state"] == "ready"}
    expected = {f"runs/{run_id}/candidates.parquet" for run_id in succeeded}
    expected |= {f"videos/{video['id']}/content" for video in evidence.rows.videos}
    expected |= {f"videos/{video_id}/index" for video_id in indexed}
    for path in sorted(evidence.files.paths - expected):
        yield f"{path} belongs to nothing in the database"
    for path in sorted(expected - evidence.files.paths):
        yield f"{path} is missing"


def _growth(before: Footprint, after: Footprint) -> Iterator[str]:
    if after.descriptors > before.descriptors + MORE_DESCRIPTORS:
        yield f"{after.descriptors} descriptors, {before.descriptors} at the start"
    if after.children > before.children:
        yield f"{after.children} processes below it, {before.children} at the start"
    if after.slots_free != before.slots_free:
        yield f"{after.slots_free} slots are free, {before.slots_free} at the start"
    if after.rss_mb > before.rss_mb + MORE_RSS_MB:
        yield f"{after.rss_mb:.0f} MB resident, {before.rss_mb:.0f} at the start"


def _known_codes() -> frozenset[str]:
    def below(kind: type[errors.TrireelError]) -> Iterator[type[errors.TrireelError]]:
        yield kind
        for each in kind.__subclasses__():
            yield from below(each)

    return frozenset({kind.code for kind in below(errors.TrireelError)} | set(CODE_BY_STATUS.values()))


KNOWN_CODES: Final = _known_codes()


def shapeless_errors(evidence: Evidence) -> Iterator[str]:
    """I9: also of failed jobs, and of what a log calls unexpected."""
    for answer in evidence.errors:
        yield from (f"{answer.request} was answered {answer.status}: {what}" for what in _shapeless(answer))
    for job_id, told in evidence.told.items():
        error = told.answer["error"] if told.answer else None
        if error and (error["code"] not in KNOWN_CODES or error["code"] == INTERNAL_ERROR or not error["message"]):
            yield f"{job_id} failed with {dict(error)}"
    for line in evidence.log_alarms:
        yield f"a log says: {line}"


def _shapeless(answer: ErrorAnswer) -> Iterator[str]:
    if "Traceback" in answer.body:
        yield f"with a traceback: {answer.body:.300}"
    if answer.content_type.partition(";")[0] != PROBLEM_TYPE:
        yield f"as {answer.content_type}: {answer.body:.300}"
        return
    try:
        problem = json.loads(answer.body)
    except ValueError:
        yield f"with no JSON: {answer.body:.300}"
        return
    if problem.get("code") not in KNOWN_CODES or problem["code"] == INTERNAL_ERROR:
        yield f"with the code {problem.get('code')}: {answer.body:.300}"
    if problem.get("status") != answer.status or not problem.get("detail"):
        yield f"with an incomplete problem: {answer.body:.300}"


def untrue_probes(evidence: Evidence) -> Iterator[str]:
    """I10: /healthz is the API's, /readyz stands for everything that work needs."""
    truths = {truth.name: truth for truth in evidence.truths}
    for probe in evidence.probes:
        concerned = [truths[API]] if probe.path == "/healthz" else list(truths.values())
        # It tells of some moment between its beginning and its end.
        since_s, until_s = probe.at_s - GRACE_S, probe.at_s + probe.took_s
        if not all(truth.is_known(since_s=since_s, until_s=until_s) for truth in concerned):
            continue
        if truths[API].at(probe.at_s):
            down = [truth.name for truth in concerned if not truth.at(probe.at_s)]
            yield from _untrue(probe, down)


def _untrue(probe: Probe, down: list[str]) -> Iterator[str]:
    expected = 503 if down else 200
    if probe.status != expected:
        because = f"{', '.join(down)} had been down for {GRACE_S:g} s" if down else "everything was up"
        yield f"{probe.path} answered {probe.status or 'nothing'} at {probe.at_s:.1f} s, while {because}"
    if probe.took_s > GRACE_S:
        yield f"{probe.path} took {probe.took_s:.1f} s at {probe.at_s:.1f} s"
