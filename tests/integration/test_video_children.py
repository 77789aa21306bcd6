"""Decoder children that die, stall or are left alone: the orchestrator lives on, and every slot comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import DecoderCrashedError, DecoderStalledError
from orchestrator.settings import DEFAULTS
from orchestrator.video.channel import packet_sockets
from orchestrator.video.child import Child
from orchestrator.video.messages import DecodeSegment, to_wire
from tests.support.decoder_processes import (
    CLIP,
    children_of,
    decoder_parent,
    ended,
    long_segment,
    read_until_error,
)
from tests.support.decoding import (
    BATCH_FRAMES,
    IMGSZ,
    LIMITS,
    SLOTS,
    decode_segment,
    open_reader,
    segment_requests,
)
from tests.support.videos import FRAMES, make_video

STALL_TIMEOUT_S = float(DEFAULTS["TRIREEL_STALL_TIMEOUT_S"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(CLIP, tmp_path_factory.mktemp("clip"))


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
