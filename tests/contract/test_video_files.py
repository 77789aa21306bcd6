"""Every `VideoFiles`."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from orchestrator.core.types import FrameIndex
from orchestrator.errors import StorageError, UploadEmptyError, UploadTooLargeError
from orchestrator.ports import Stores, VideoFiles
from tests.contract.conftest import MAX_UPLOAD_BYTES


@pytest.fixture
def files(stores: Stores) -> VideoFiles:
    return stores.files


async def received(files: VideoFiles, content: bytes = b"film") -> str:
    async with files.receive() as incoming:
        await incoming.write(content)
        await incoming.keep()
    return incoming.video_id


async def test_an_upload_is_hashed_and_counted_as_it_arrives(files: VideoFiles) -> None:
    async with files.receive() as incoming:
        for chunk in (b"one", b"", b"two" * 100):
            await incoming.write(chunk)
        assert incoming.size_bytes == 303
        assert await incoming.keep() == hashlib.sha256(b"one" + b"two" * 100).hexdigest()
        assert incoming.path == files.content_path(incoming.video_id)
        assert await files.ids() == {incoming.video_id}
    assert await files.ids() == {incoming.video_id}


async def test_an_upload_that_is_not_kept_leaves_nothing(files: VideoFiles) -> None:
    async with files.receive() as incoming:
        await incoming.write(b"some")
    assert await files.ids() == frozenset()


async def test_an_upload_that_breaks_off_leaves_nothing(files: VideoFiles) -> None:
    async def receive() -> None:
        async with files.receive() as incoming:
            await incoming.write(b"some")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await receive()
    assert await files.ids() == frozenset()


async def test_an_empty_upload_is_refused(files: VideoFiles) -> None:
    async with files.receive() as incoming:
        await incoming.write(b"")
        with pytest.raises(UploadEmptyError):
            await incoming.keep()
    assert await files.ids() == frozenset()


async def test_the_largest_upload_is_taken_and_one_byte_more_is_refused(files: VideoFiles) -> None:
    await received(files, b"x" * MAX_UPLOAD_BYTES)
    async with files.receive() as incoming:
        await incoming.write(b"x" * (MAX_UPLOAD_BYTES - 1))
        with pytest.raises(UploadTooLargeError):
            await incoming.write(b"xx")
    assert len(await files.ids()) == 1


async def test_uploads_at_the_same_time_do_not_mix(files: VideoFiles) -> None:
    async with files.receive() as one, files.receive() as other:
        for _ in range(5):
            await one.write(b"1")
            await other.write(b"2")
        assert await one.keep() == hashlib.sha256(b"11111").hexdigest()
        assert await other.keep() == hashlib.sha256(b"22222").hexdigest()
    assert one.video_id != other.video_id


@pytest.mark.parametrize("is_timed", [True, False])
@pytest.mark.parametrize("frames", [0, 1, 1000])
async def test_an_index_comes_back_as_it_was_saved(files: VideoFiles, frames: int, is_timed: bool) -> None:
    video_id = await received(files)
    pts = np.arange(frames, dtype=np.int64) * 1001 - 2**40
    index = FrameIndex(pts, pts % 7 == 0, Fraction(1001, 30_000), is_timed)
    await files.save_index(video_id, index)
    found = await files.load_index(video_id)
    np.testing.assert_array_equal(found.pts, index.pts)
    np.testing.assert_array_equal(found.is_key, index.is_key)
    assert (found.pts.dtype, found.is_key.dtype) == (index.pts.dtype, index.is_key.dtype)
    assert (found.time_base, found.is_timed) == (index.time_base, is_timed)


async def test_an_index_is_replaced_as_a_whole(files: VideoFiles) -> None:
    video_id = await received(files)
    for frames in (5, 3):
        await files.save_index(video_id, FrameIndex(np.arange(frames), np.ones(frames, np.bool_), Fraction(1, 25)))
    assert len(await files.load_index(video_id)) == 3


async def test_a_missing_index_is_a_storage_error(files: VideoFiles) -> None:
    with pytest.raises(StorageError):
        await files.load_index(await received(files))
    with pytest.raises(StorageError):
        await files.load_index("vid_0")


async def test_a_removed_video_is_gone_with_its_index_and_twice_is_no_error(files: VideoFiles) -> None:
    video_id = await received(files)
    await files.save_index(video_id, FrameIndex(np.arange(2), np.ones(2, np.bool_), Fraction(1, 25)))
    await files.remove(video_id)
    await files.remove(video_id)
    assert await files.ids() == frozenset()
    with pytest.raises(StorageError):
        await files.load_index(video_id)


async def test_a_kept_upload_may_be_removed_before_its_end(files: VideoFiles) -> None:
    async with files.receive() as incoming:
        await incoming.write(b"no video")
        await incoming.keep()
        await files.remove(incoming.video_id)
    assert await files.ids() == frozenset()
