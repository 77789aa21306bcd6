"""The n-th call fails, or is the last one of its process, for n = 1, 2, 3 ... until a run passes untouched."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from orchestrator.errors import (
    CommitUnknownError,
    DiskFullError,
    InferenceError,
    TrireelError,
    TritonTimeoutError,
    TritonUnavailableError,
)
from orchestrator.ports import CandidateArchive
from tests.faults.checker import check
from tests.faults.counted_calls import CallCounter, Strike
from tests.faults.evidence import Undisturbed
from tests.faults.rig import Rig
from tests.faults.spoilt_files import LimitedArchive, spoilt_files

pytestmark = pytest.mark.timeout(300)

STORES: Final = ("videos", "jobs", "runs", "parts", "events", "archive", "files")
NEVER: Final = 0
# Of a Parquet file's few kilobytes.
BYTES_A_STEP: Final = 256

Numbers = Callable[[], Iterator[int]]


def as_the_test_wants(error: type[TrireelError]) -> Callable[[], TrireelError]:
    return lambda: error("as the test wants it")


@dataclass(slots=True)
class Sweep:
    """Runs one rig after the other in `folder`. hits: what was struck, in order."""

    folder: Path
    name: str
    undisturbed: Undisturbed
    hits: list[str] = field(default_factory=list)

    async def run(
        self,
        numbers: Iterator[int],
        make_rig: Callable[[Path, int], Rig],
        *,
        spoiling: Callable[[Rig], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        """Until nothing is struck any more; the checker judges after each run."""
        for number in numbers:
            life = self.folder / "life"
            rig = make_rig(life, number)
            with spoiling(rig):
                await rig.carry_out()
            if rig.counter.hit is not None:
                self.hits.append(rig.counter.hit)
                check(await rig.evidence(self.name, self.undisturbed))
            shutil.rmtree(life)
            if rig.counter.hit is None:
                return


@pytest.fixture
async def undisturbed(tmp_path: Path) -> Undisturbed:
    rig = Rig(tmp_path / "undisturbed", CallCounter(NEVER, Strike.FAILS, as_the_test_wants(DiskFullError)), STORES)
    await rig.carry_out()
    told = (await rig.evidence("none")).told[rig.job_id or ""]
    assert told.lines
    return Undisturbed(lines=told.lines)


@pytest.mark.parametrize("strike", Strike, ids=lambda strike: strike.name.lower())
async def test_every_call_of_a_store_may_fail_or_be_the_last(
    tmp_path: Path, undisturbed: Undisturbed, sweep: Numbers, strike: Strike
) -> None:
    error = as_the_test_wants(CommitUnknownError if strike.is_late else DiskFullError)
    swept = Sweep(tmp_path, f"a call of a store {strike.value}", undisturbed)
    await swept.run(sweep(), lambda folder, number: Rig(folder, CallCounter(number, strike, error), STORES))
    assert len(swept.hits) > 10, swept.hits


async def test_every_commit_of_a_segment_may_fail_or_be_the_last(tmp_path: Path, undisturbed: Undisturbed) -> None:
    for strike in Strike:
        error = as_the_test_wants(CommitUnknownError if strike.is_late else DiskFullError)
        swept = Sweep(tmp_path, f"a commit {strike.value}", undisturbed)
        await swept.run(
            iter(range(1, 100)),
            lambda folder, number, strike=strike, error=error: Rig(
                folder, CallCounter(number, strike, error), ("parts",)
            ),
        )
        assert any("parts.commit" in hit for hit in swept.hits), swept.hits


@pytest.mark.parametrize("error", [TritonUnavailableError, TritonTimeoutError, InferenceError])
async def test_every_inference_may_fail(tmp_path: Path, undisturbed: Undisturbed, error: type[TrireelError]) -> None:
    swept = Sweep(tmp_path, f"an inference fails with {error.code}", undisturbed)
    await swept.run(
        iter(range(1, 100)),
        lambda folder, number: Rig(
            folder,
            CallCounter(number, Strike.FAILS, as_the_test_wants(error)),
            ("model",),
            may_fail_with=frozenset() if error.retryable else frozenset({error.code}),
        ),
    )
    assert len(swept.hits) >= 5, swept.hits


@pytest.mark.parametrize("strike", [Strike.FAILS, Strike.LAST_BEFORE], ids=lambda strike: strike.name.lower())
async def test_every_file_call_may_fail_or_be_the_last(
    tmp_path: Path, undisturbed: Undisturbed, sweep: Numbers, strike: Strike
) -> None:
    swept = Sweep(tmp_path, f"a file call {strike.value}", undisturbed)
    await swept.run(
        sweep(),
        lambda folder, number: Rig(folder, CallCounter(number, strike, lambda: OSError(5, "as the test wants it")), ()),
        spoiling=lambda rig: spoilt_files(rig.folder, rig.counter),
    )
    assert len(swept.hits) > 2, swept.hits


async def test_finalizing_may_run_out_of_room_at_every_byte(tmp_path: Path, undisturbed: Undisturbed) -> None:
    swept = Sweep(tmp_path, "the results do not fit", undisturbed)

    def make_rig(folder: Path, number: int) -> Rig:
        counter = CallCounter(NEVER, Strike.FAILS, as_the_test_wants(DiskFullError))
        rig = Rig(folder, counter, ())

        def spoil(archive: CandidateArchive) -> CandidateArchive:
            return LimitedArchive(archive, (number - 1) * BYTES_A_STEP, counter)

        rig.spoil_archive = spoil
        return rig

    await swept.run(iter(range(1, 1000)), make_rig)
    assert len(swept.hits) > 3, swept.hits
