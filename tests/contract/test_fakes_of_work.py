"""The fakes that stand for decoders and Triton keep the promises that the use cases build on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.core.types import FrameBatch, FrameStamp, SegmentPlan
from orchestrator.errors import ModelNotFoundError, ModelNotReadyError, TritonTimeoutError, VideoUnreadableError
from orchestrator.ports import ModelCatalogue, SegmentRequest, VideoReader
from orchestrator.testing.fake_model import FakeModel, FakeModelCatalogue, served_model
from orchestrator.testing.fake_reader import STALE, FakeSlots, FakeVideoReader, GeneratedVideo, read_index

PATH = Path("memory/vid_1/content")


def request_of(samples: list[int], *, batch_frames: int = 4) -> SegmentRequest:
    return SegmentRequest(
        run_id="run_1",
        path=PATH,
        plan=SegmentPlan(0, 0, len(samples) - 1, None),
        stamps=[FrameStamp(index, 40.0 * index) for index in samples],
        wanted_pts=np.array(samples, np.int64),
        earlier_entries=(),
        short_cuts=np.zeros(0, np.int64),
        is_timed=True,
        imgsz=64,
        stride=32,
        batch_frames=batch_frames,
    )


async def batches_of(
    reader: VideoReader, slots: FakeSlots, request: SegmentRequest
) -> list[tuple[FrameBatch, list[int]]]:
    """Each batch, and the frames that its pixels told while it was out."""
    seen = []
    async with reader.open_segment(request) as batches:
        while (batch := await batches.next()) is not None:
            seen.append((batch, [read_index(row) for row in batch.pixels]))
            slots.give_back(batch.slot)
        assert batches.report().failed == ((FrameStamp(3, 120.0), "frame_corrupt"),)
    return seen


async def test_each_wanted_frame_comes_once_in_order_or_is_told_as_failed() -> None:
    slots = FakeSlots(count=1)
    reader = FakeVideoReader(GeneratedVideo(failing={3: "frame_corrupt", 99: "frame_corrupt"}), slots)
    seen = await batches_of(reader, slots, request_of([1, 2, 3, 4, 5, 6, 300]))
    assert [frames for _, frames in seen] == [[1, 2, 4, 5], [6, 300]]
    assert [[stamp.index for stamp in batch.stamps] for batch, _ in seen] == [[1, 2, 4, 5], [6, 300]]
    assert slots.out == frozenset()


async def test_pixels_of_a_slot_that_was_given_back_are_gone() -> None:
    slots = FakeSlots()
    async with FakeVideoReader(GeneratedVideo(), slots).open_segment(request_of([1])) as batches:
        batch = await batches.next()
        assert batch is not None
        assert slots.out == {batch.slot}
        slots.give_back(batch.slot)
        assert (batch.pixels == STALE).all()
        with pytest.raises(KeyError):
            slots.give_back(batch.slot)


async def test_header_and_index_tell_of_the_same_video() -> None:
    reader = FakeVideoReader(GeneratedVideo(frame_count=50, fps=10), FakeSlots())
    header, (index, report) = await reader.read_header(PATH), await reader.make_index(PATH)
    assert len(index) == report.frame_count == 50
    assert header.duration_s_hint == report.duration_s == 5.0
    assert index.pts_ms()[-1] == 4900.0


async def test_an_unreadable_video_raises_everywhere() -> None:
    reader = FakeVideoReader(GeneratedVideo(error=VideoUnreadableError("no demuxer opens it")), FakeSlots())
    with pytest.raises(VideoUnreadableError):
        await reader.read_header(PATH)
    with pytest.raises(VideoUnreadableError):
        await reader.make_index(PATH)
    with pytest.raises(VideoUnreadableError):
        async with reader.open_segment(request_of([1])):
            pass


async def test_the_model_answers_by_what_it_sees() -> None:
    slots, model = FakeSlots(), FakeModel()
    model.failures.append(TritonTimeoutError("late"))
    async with FakeVideoReader(GeneratedVideo(), slots).open_segment(request_of([7, 8])) as batches:
        batch = await batches.next()
        assert batch is not None
        with pytest.raises(TritonTimeoutError):
            await model.infer(served_model(), batch)
        answer = await model.infer(served_model(), batch)
    assert answer.shape == (2, 300, 6)
    assert answer.dtype == np.float32
    assert answer[:, 0, 5].tolist() == [7 % 3, 8 % 3]
    assert (np.diff(answer[:, :, 4], axis=1) <= 0).all()
    assert model.frames_inferred == [7, 8]


async def test_the_catalogue_finds_the_newest_ready_version() -> None:
    one, two = served_model(version=1), served_model(version=2)
    fake = FakeModelCatalogue([two, one])
    catalogue: ModelCatalogue = fake
    assert await catalogue.find("shapes") == two
    fake.set_ready("shapes", 2, reason_against="out of memory")
    assert await catalogue.find("shapes") == one
    with pytest.raises(ModelNotReadyError, match="out of memory"):
        await catalogue.find("shapes", 2)
    with pytest.raises(ModelNotFoundError):
        await catalogue.find("cars")
    with pytest.raises(ModelNotFoundError):
        await catalogue.find("shapes", 3)
    assert [(each.version, each.is_ready, each.reason) for each in await catalogue.list()] == [
        (1, True, ""),
        (2, False, "out of memory"),
    ]
