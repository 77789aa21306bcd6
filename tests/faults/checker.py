"""The one checker: the invariants I1 to I10 of the fault catalogue, judged by evidence alone.

Each invariant is a function from evidence to complaints, so that doctored evidence can show that it complains
(`tests/unit/test_fault_checker.py`). No scenario asserts any of this by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tests.faults import judging_jobs, judging_operation, judging_streams
from tests.faults.evidence import Evidence

Judge = Callable[[Evidence], Iterator[str]]


def faults_that_never_fired(evidence: Evidence) -> Iterator[str]:
    """A scenario whose fault did not happen has tested nothing."""
    if not evidence.faults:
        yield "no fault was planned"
    for fault in evidence.faults:
        if not fault.hits:
            yield f"{fault.name!r} never fired"


INVARIANTS: Final[dict[str, Judge]] = {
    "I0 every planned fault fired": faults_that_never_fired,
    "I1 an accepted job is never lost": judging_jobs.lost_jobs,
    "I2 no job is stuck": judging_jobs.stuck_work,
    "I3 every frame is there once, and the counters equal the rows": judging_jobs.miscounted_frames,
    "I4 the detections equal an undisturbed run's": judging_jobs.other_detections,
    "I5 what is not whole does not call itself so": judging_jobs.untold_losses,
    "I6 nothing is left over": judging_operation.leftovers,
    "I7 every end is told, once, and again to who asks": judging_streams.untold_events,
    "I8 progress does not go back within an attempt": judging_streams.progress_going_back,
    "I9 an error is a problem with a code": judging_operation.shapeless_errors,
    "I10 health and readiness tell the truth within 5 s": judging_operation.untrue_probes,
}


def complaints_about(evidence: Evidence) -> list[str]:
    """Every breach of an invariant, each with the invariant's name."""
    return [f"{name}: {complaint}" for name, judge in INVARIANTS.items() for complaint in judge(evidence)]


def check(evidence: Evidence) -> None:
    """Raises AssertionError that names every breach, the seed and what the faults hit."""
    complaints = complaints_about(evidence)
    if complaints:
        hits = [f"  {fault.name}: {', '.join(fault.hits) or 'never'}" for fault in evidence.faults]
        said = "\n".join([f"with seed {evidence.seed}", *complaints, "the faults hit", *hits])
        raise AssertionError(said)
