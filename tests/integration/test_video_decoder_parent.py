"""The decoder parent: killed, standing still, and gone with its server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs

from orchestrator.core.planning import FIRST_SEGMENT_FRAMES
from orchestrator.errors import DecoderCrashedError, DecoderStalledError
from tests.support.decoder_processes import (
    CLIP,
    children_of,
    decoder_parent,
    ended,
    kill_parent,
    long_segment,
    read_until_error,
)
from tests.support.decoding import SLOTS, Reader, decode_segment, open_reader
from tests.support.needs import ROOT
from tests.support.videos import FRAMES, make_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(CLIP, tmp_path_factory.mktemp("clip"))


async def test_the_decoder_parent_starts_with_the_server() -> None:
    before = children_of(os.getpid())
    async with open_reader():
        assert len(children_of(os.getpid())) == len(before) + 1


async def test_a_killed_parent_is_started_again(clip: Path) -> None:
    async with open_reader() as reader:
        request = await long_segment(reader, clip)
        with pytest.raises(DecoderCrashedError):
            await read_until_error(reader, request, kill_parent)
        assert reader.slots.free_count == SLOTS
        rows, _ = await decode_segment(reader, request)
        assert len(rows) == len(request.stamps)


async def test_a_parent_killed_between_two_calls_is_not_noticed(clip: Path) -> None:
    async with open_reader() as reader:
        request = await long_segment(reader, clip)
        await decode_segment(reader, request)
        handle = os.pidfd_open(decoder_parent())
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        await ended(handle)
        rows, _ = await decode_segment(reader, replace(request, run_id="another"))
        assert len(rows) == len(request.stamps)


async def test_a_parent_that_stands_still_costs_its_children_and_is_started_again(clip: Path) -> None:
    async with open_reader(stall_timeout_s=5, end_timeout_s=4) as reader:
        request = await long_segment(reader, clip)

        def stop_all() -> None:
            parent = decoder_parent()
            for pid in (*children_of(parent), parent):
                os.kill(pid, signal.SIGSTOP)

        with pytest.raises(DecoderStalledError):
            await read_until_error(reader, request, stop_all)
        await all_slots_are_back(reader)
        rows, _ = await decode_segment(reader, request)
        assert len(rows) == len(request.stamps)


async def test_a_reader_that_is_cancelled_ends_though_the_parent_stands_still(clip: Path) -> None:
    async with open_reader(end_timeout_s=2) as reader:
        request = await long_segment(reader, clip)
        is_stopped = asyncio.Event()

        def stop_all() -> None:
            parent = decoder_parent()
            for pid in (*children_of(parent), parent):
                os.kill(pid, signal.SIGSTOP)
            is_stopped.set()

        reading = asyncio.create_task(read_until_error(reader, request, stop_all))
        await is_stopped.wait()
        reading.cancel()
        await asyncio.wait([reading], timeout=20)
        assert reading.cancelled()
        await all_slots_are_back(reader)


async def all_slots_are_back(reader: Reader) -> None:
    """Somebody who waits for every one gets them."""
    async with asyncio.timeout(20):
        taken = [await reader.slots.lease() for _ in range(SLOTS)]
    for slot in taken:
        reader.slots.give_back(slot)


async def test_a_child_that_does_not_die_keeps_its_slots_and_nobody_waits_for_it(clip: Path) -> None:
    parent_module = "tests.support.merciful_decoder_parent"
    async with open_reader(stall_timeout_s=5, end_timeout_s=4, parent_module=parent_module) as reader:
        request = await long_segment(reader, clip)
        undying: list[int] = []

        def stop_child() -> None:
            # The one that made the index lives on as well, and does nothing.
            undying.extend(children_of(decoder_parent()))
            os.kill(undying[-1], signal.SIGSTOP)

        with capture_logs() as logs, pytest.raises(DecoderStalledError):
            await read_until_error(reader, request, stop_child)
        (held,) = [entry["slots"] for entry in logs if entry["event"] == "decoder does not die"]
        assert held > 0
        assert reader.slots.free_count == SLOTS - held
        rows, _ = await decode_segment(reader, replace(request, run_id="another"))
        assert len(rows) == len(request.stamps)
        os.kill(undying[-1], signal.SIGKILL)
        await all_slots_are_back(reader)


def test_everything_works_on_uvloop(clip: Path) -> None:
    async def read() -> int:
        async with open_reader() as reader:
            await reader.decoders.read_header(clip)
            request = await long_segment(reader, clip)
            with pytest.raises(DecoderCrashedError):
                await read_until_error(reader, request, kill_parent)
            rows, _ = await decode_segment(reader, request)
            return len(rows)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(read()) == FRAMES - FIRST_SEGMENT_FRAMES


def test_nothing_outlives_an_orchestrator_that_is_killed(clip: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from tests.support.decoding import open_reader
from tests.support.decoder_processes import children_of, decoder_parent, long_segment

async def main():
    async with open_reader() as reader:
        request = await long_segment(reader, Path({str(clip)!r}))
        async with reader.decoders.open_segment(request) as batches:
            await batches.next()
            parent = decoder_parent()
            print(parent, *children_of(parent), reader.slots.key, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # `Popen` of the decoder parent logs to standard output as well; the line with three words is ours.
        words = next(line.split() for line in process.stdout if line.split()[0].isdigit())
        handles = [os.pidfd_open(int(pid)) for pid in words[:2]]
        process.kill()
        for handle in handles:
            asyncio.run(ended(handle))
    # What a killed orchestrator leaves behind goes when the next one starts.
    region = Path("/dev/shm") / words[2].lstrip("/")
    assert region.exists()
    asyncio.run(start_and_stop())
    assert not region.exists()


def test_a_child_can_import_nothing_that_knows_secrets() -> None:
    program = "import sys, orchestrator.video.decoder_parent; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in modules.stdout.split() if name.startswith("orchestrator.")}
    allowed = ("orchestrator.video", "orchestrator.core", "orchestrator.errors")
    assert {name for name in ours if not name.startswith(allowed)} == set()
    assert not {"litestar", "sqlalchemy", "tritonclient", "pyarrow", "structlog"} & set(modules.stdout.split())


async def start_and_stop() -> None:
    async with open_reader():
        pass
