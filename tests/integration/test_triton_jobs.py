"""What a job tells when Triton fails for good: the use cases on the real way to a server that is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.core.states import JobState
from orchestrator.inference.retrying import Retrying
from tests.support.fake_kserve import FakeKserve, Fault, break_down, change, fake_kserve
from tests.support.process import Process
from tests.support.triton import MEAN_COLOUR, mean_colour_card, reaching, triton_settings

QUICK = Retrying(first_s=0.01, longest_s=0.05, budget_s=20)
ONCE = Retrying(budget_s=0)


class NoRegion:
    """Frames of a process on in-memory parts lie in no shared memory."""

    key = None
    byte_size = 0

    def offset(self, slot: int) -> int:
        return 0


@asynccontextmanager
async def process_with(*servers: FakeKserve, retrying: Retrying = QUICK) -> AsyncIterator[Process]:
    settings = triton_settings(Path("unused"), TRITON_URL=",".join(server.url for server in servers))
    async with reaching(settings, NoRegion(), retrying=retrying) as triton:
        while not all(each.is_ready for each in (await triton.readiness()).endpoints):
            pass
        yield Process(model=triton.model, catalogue=triton.catalogue)  # type: ignore[arg-type]  # the real ones


def spoil(answer: Any) -> None:
    candidates = np.frombuffer(answer.raw_output_contents[0], np.float32).copy()
    candidates[4] = np.nan
    answer.raw_output_contents[0] = candidates.tobytes()


async def test_a_job_over_two_servers_gives_what_one_gives() -> None:
    tables = []
    with fake_kserve() as first, fake_kserve() as second:
        for servers in ((first,), (first, second)):
            async with process_with(*servers) as process:
                job = await process.submit(model=MEAN_COLOUR)
                await process.work_until_idle()
                assert (await process.stores.jobs.get(job.job.id)).state is JobState.SUCCEEDED
                tables.append(
                    [part async for part in process.stores.archive.read(job.run.id, first_frame=0, last_frame=None)]
                )
        assert second.calls["ModelInfer"] > 0
    one, two = (np.concatenate([part.confidence for part in table]) for table in tables)
    assert len(one) > 0
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("fault", "code"),
    [(change(spoil), "contract_broken"), (break_down, "batch_breaks_triton"), (None, "model_changed")],
)
async def test_a_job_that_cannot_go_on_fails_with_the_code_and_stores_nothing(fault: Fault | None, code: str) -> None:
    with fake_kserve() as fake:
        async with process_with(fake) as process:
            job = await process.submit(model=MEAN_COLOUR)
            if fault is None:
                fake.published = {MEAN_COLOUR: {1: mean_colour_card("c" * 64)}}
                await fake.go_away()
                await fake.come_back()
            else:
                fake.faults["ModelInfer"] = fault
            await process.work_until_idle()
            ended = await process.stores.jobs.get(job.job.id)
            assert ended.state is JobState.FAILED
            assert ended.failure is not None
            assert ended.failure.code == code
            stored = [part async for part in process.stores.parts.read(job.run.id, first_frame=0, last_frame=None)]
            assert stored == []
