"""Decoder children that die, stall or are left alone: the orchestrator lives on, and every slot comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs

from orchestrator.core.planning import FIRST_SEGMENT_FRAMES
from orchestrator.errors import DecoderCrashedError, DecoderStalledError
from orchestrator.ports import SegmentRequest
from orchestrator.settings import DEFAULTS
from orchestrator.video import children
from orchestrator.video.channel import packet_sockets
from orchestrator.video.child import Child
from orchestrator.video.messages import DecodeSegment, to_wire
from tests.support.decoding import (
    BATCH_FRAMES,
    IMGSZ,
    LIMITS,
    SLOTS,
    Reader,
    decode_segment,
    open_reader,
    segment_requests,
)
from tests.support.needs import ROOT
from tests.support.videos import FRAMES, VideoSpec, make_video

STALL_TIMEOUT_S = float(DEFAULTS["TRIREEL_STALL_TIMEOUT_S"])
CLIP = VideoSpec(file_name="clip.mp4", codec="mpeg4", options={"g": "12"})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(CLIP, tmp_path_factory.mktemp("clip"))


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]


def decoder_parent() -> int:
    """The one decoder parent that this process started."""
    (pid,) = [pid for pid in children_of(os.getpid()) if b"decoder_parent" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def kill_parent() -> None:
    """Kill the decoder parent, and let no child reach its end before the kernel's signal reaches it."""
    parent = decoder_parent()
    for child in children_of(parent):
        os.kill(child, signal.SIGSTOP)
    os.kill(parent, signal.SIGKILL)


async def long_segment(reader: Reader, clip: Path) -> SegmentRequest:
    index, _ = await reader.decoders.make_index(clip)
    return segment_requests(clip, index, segment_frames=FRAMES)[1]


async def read_until_error(reader: Reader, request: SegmentRequest, disturb: Callable[[], None]) -> int:
    """Disturb after the first batch; the number of frames that came before the error."""
    frames = 0
    async with reader.decoders.open_segment(request) as batches:
        while (batch := await batches.next()) is not None:
            if not frames:
                disturb()
            frames += len(batch.stamps)
            reader.slots.give_back(batch.slot)
    raise AssertionError("the segment ended as if nothing had happened")


async def test_the_decoder_parent_starts_with_the_server() -> None:
    before = children_of(os.getpid())
    async with open_reader():
        assert len(children_of(os.getpid())) == len(before) + 1


async def test_a_killed_child_costs_its_segment_only(clip: Path) -> None:
    async with open_reader() as reader:
        request = await long_segment(reader, clip)

        def kill_child() -> None:
            (child,) = children_of(decoder_parent())
            os.kill(child, signal.SIGKILL)

        parent = decoder_parent()
        with pytest.raises(DecoderCrashedError, match="SIGKILL"):
            await read_until_error(reader, request, kill_child)
        assert reader.slots.free_count == SLOTS
        rows, _ = await decode_segment(reader, request)
        assert len(rows) == len(request.stamps)
        assert decoder_parent() == parent
        exits = reader.metrics.registry.get_sample_value("trireel_decoder_exits_total", {"reason": "crashed"})
        assert exits == 1


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


async def test_a_child_that_shows_no_life_is_killed(clip: Path) -> None:
    async with open_reader(stall_timeout_s=1) as reader:
        request = await long_segment(reader, clip)
        stopped: list[int] = []

        def stop_child() -> None:
            stopped.extend(children_of(decoder_parent()))
            os.kill(stopped[0], signal.SIGSTOP)

        with pytest.raises(DecoderStalledError):
            await read_until_error(reader, request, stop_child)
        assert stopped[0] not in children_of(decoder_parent())
        assert reader.slots.free_count == SLOTS


async def test_a_parent_that_stands_still_costs_its_children_and_is_started_again(clip: Path) -> None:
    async with open_reader(stall_timeout_s=5, end_timeout_s=1) as reader:
        request = await long_segment(reader, clip)

        def stop_all() -> None:
            parent = decoder_parent()
            for pid in (*children_of(parent), parent):
                os.kill(pid, signal.SIGSTOP)

        with pytest.raises(DecoderStalledError):
            await read_until_error(reader, request, stop_all)
        assert reader.slots.free_count == SLOTS
        rows, _ = await decode_segment(reader, request)
        assert len(rows) == len(request.stamps)


async def test_a_child_that_does_not_die_keeps_its_slots_and_nobody_waits_for_it(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "PARENT_MODULE", "tests.support.merciful_decoder_parent")
    async with open_reader(stall_timeout_s=5, end_timeout_s=1) as reader:
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
        # Somebody who waits for every slot gets them all.
        async with asyncio.timeout(20):
            taken = [await reader.slots.lease() for _ in range(SLOTS)]
        for slot in taken:
            reader.slots.give_back(slot)


class MovedLoop(asyncio.SelectorEventLoop):
    """Its clock runs as usual, and leaps when told to."""

    ahead_s: float = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    async def leap(self, seconds: float) -> None:
        """Let all that is there be read first, and whatever is due by then happen."""
        for ahead_s in (0.0, seconds):
            self.ahead_s += ahead_s
            for _ in range(100):
                await asyncio.sleep(0)


def on_moved_loop(step: Callable[[MovedLoop], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=MovedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, MovedLoop)
        runner.run(step(loop))


def wait_until_stopped(pid: int) -> None:
    while Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "T":
        os.sched_yield()


def test_a_decoder_has_stalled_after_300_s_without_a_batch_and_not_before(clip: Path) -> None:
    async def step(loop: MovedLoop) -> None:
        async with open_reader(stall_timeout_s=STALL_TIMEOUT_S) as reader:
            request = await long_segment(reader, clip)
            is_stopped = asyncio.Event()

            def stop_child() -> None:
                (child,) = children_of(decoder_parent())
                os.kill(child, signal.SIGSTOP)
                wait_until_stopped(child)
                is_stopped.set()

            reading = asyncio.create_task(read_until_error(reader, request, stop_child))
            await is_stopped.wait()
            await loop.leap(STALL_TIMEOUT_S - 5)
            assert not reading.done()
            await loop.leap(6)
            with pytest.raises(DecoderStalledError, match="300 s"):
                await reading

    on_moved_loop(step)


def test_an_hour_of_waiting_for_triton_or_for_a_turn_is_no_stall(clip: Path) -> None:
    async def step(loop: MovedLoop) -> None:
        async with open_reader(stall_timeout_s=STALL_TIMEOUT_S) as reader:
            request = await long_segment(reader, clip)
            async with reader.decoders.open_segment(request) as batches:
                # Nobody asks for the next batch while Triton takes its time over this one.
                waiting = [await batches.next()]
                await loop.leap(3600)
                # No slot is free, and the child has none to fill.
                taken = []
                while (slot := reader.slots.try_lease()) is not None:
                    taken.append(slot)
                waiting.append(await batches.next())
                turn = asyncio.create_task(batches.next())
                await loop.leap(3600)
                assert not turn.done()
                for slot in (*taken, *(batch.slot for batch in waiting if batch)):
                    reader.slots.give_back(slot)
                frames = sum(len(batch.stamps) for batch in waiting if batch)
                batch = await turn
                while batch is not None:
                    frames += len(batch.stamps)
                    reader.slots.give_back(batch.slot)
                    batch = await batches.next()
            assert frames == len(request.stamps)

    on_moved_loop(step)


async def test_leaving_a_segment_early_gives_every_slot_back(clip: Path) -> None:
    async with open_reader() as reader:
        request = await long_segment(reader, clip)
        async with reader.decoders.open_segment(request) as batches:
            batch = await batches.next()
            assert batch is not None
            assert len(batch.stamps) == BATCH_FRAMES
        assert reader.slots.free_count == SLOTS - 1
        reader.slots.give_back(batch.slot)
        assert children_of(decoder_parent()) == []


@pytest.mark.parametrize("batches_before", [0, 1, 3])
async def test_cancelling_a_reader_gives_every_slot_back(clip: Path, batches_before: int) -> None:
    async with open_reader() as reader:
        request = await long_segment(reader, clip)
        reached = asyncio.Event()

        async def read() -> None:
            async with reader.decoders.open_segment(request) as batches:
                for _ in range(batches_before):
                    batch = await batches.next()
                    assert batch is not None
                    reader.slots.give_back(batch.slot)
                reached.set()
                while (batch := await batches.next()) is not None:
                    reader.slots.give_back(batch.slot)

        task = asyncio.create_task(read())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reader.slots.free_count == SLOTS


async def test_segments_share_few_slots_without_a_deadlock(clip: Path) -> None:
    async with open_reader() as reader:
        index, _ = await reader.decoders.make_index(clip)
        requests = [segment_requests(clip, index, segment_frames=FRAMES, run_id=f"{n}")[1] for n in range(6)]
        results = await asyncio.gather(*(decode_segment(reader, request) for request in requests))
        assert [len(rows) for rows, _ in results] == [len(request.stamps) for request in requests]


def test_a_child_decodes_nothing_for_a_request_that_names_more_frames_than_it_brings(clip: Path) -> None:
    request = DecodeSegment(
        number=0,
        wanted_frames=3,
        entries=(),
        is_timed=True,
        imgsz=IMGSZ,
        stride=32,
        batch_frames=1,
        slot_bytes=1,
        max_frame_pixels=LIMITS.max_frame_pixels,
    )
    ours, theirs = packet_sockets()
    with ours, theirs, clip.open("rb") as file, tempfile.TemporaryFile() as region, tempfile.TemporaryFile() as stamps:
        region.write(bytes(1))
        region.flush()
        stamps.write(bytes(16))
        stamps.flush()
        socket.send_fds(ours, [to_wire(request)], [stamps.fileno()])
        with pytest.raises(ValueError, match="3 frames are wanted, but 2"):
            Child(theirs, file.fileno(), region.fileno()).serve()


async def test_a_child_that_is_asked_for_nothing_more_is_dismissed(clip: Path) -> None:
    async with open_reader(longest_idle_s=0.3) as reader:
        request = await long_segment(reader, clip)
        await decode_segment(reader, request)
        (pid,) = children_of(decoder_parent())
        await ended(os.pidfd_open(pid))
        # Nobody counts it as a decoder that died, and the run's next segment simply gets another one.
        assert reader.metrics.registry.get_sample_value("trireel_decoder_exits_total", {"reason": "crashed"}) == 0
        rows, _ = await decode_segment(reader, request)
        assert len(rows) == len(request.stamps)


async def test_a_child_over_its_memory_dies_alone(clip: Path) -> None:
    async with open_reader(limits=replace(LIMITS, decoder_memory_bytes=0)) as reader:
        with pytest.raises(DecoderCrashedError):
            await reader.decoders.make_index(clip)


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
from tests.integration.test_video_children import children_of, decoder_parent, long_segment

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


async def ended(handle: int) -> None:
    """Wait for the end of a process; closes its handle, which becomes readable then."""
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, end.set)
    await asyncio.wait_for(end.wait(), 20)
    loop.remove_reader(handle)
    os.close(handle)


async def start_and_stop() -> None:
    async with open_reader():
        pass
