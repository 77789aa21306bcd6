"""What uploads, indices and archives leave on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchestrator.core.types import Candidates, FrameIndex
from orchestrator.errors import StorageError, UploadEmptyError
from orchestrator.storage.archive import FRAMES_A_GROUP, ParquetArchive
from orchestrator.storage.threads import Threads, open_threads
from orchestrator.storage.video_files import LocalVideoFiles

SOME_INDEX = FrameIndex(np.arange(100, dtype=np.int64), np.ones(100, np.bool_), Fraction(1, 25))


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    with open_threads("files", count=2) as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path, threads: Threads) -> LocalVideoFiles:
    return LocalVideoFiles(tmp_path, max_bytes=10**9, threads=threads)


@pytest.fixture
def archive(tmp_path: Path, threads: Threads) -> ParquetArchive:
    return ParquetArchive(tmp_path, threads)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def candidates_of(frames: range, *, per_frame: int = 1) -> Candidates:
    frame_index = np.repeat(np.array(frames, np.int32), per_frame)
    count = len(frame_index)
    return Candidates(
        frame_index=frame_index,
        pts_ms=40.0 * frame_index.astype(np.float64),
        class_ids=np.zeros(count, np.int16),
        confidence=np.full(count, 0.5, np.float32),
        boxes_xyxy=np.ones((count, 4), np.float32),
    )


async def pieces(*some: Candidates) -> AsyncIterator[Candidates]:
    for piece in some:
        yield piece


async def test_an_upload_is_on_disk_as_it_arrives_and_in_its_place_once_kept(
    files: LocalVideoFiles, tmp_path: Path
) -> None:
    async with files.receive() as incoming:
        await incoming.write(b"one")
        await incoming.write(b"two")
        assert incoming.path.read_bytes() == b"onetwo"
        assert files_in(tmp_path) == {f"incoming/{incoming.video_id}/content"}
        await incoming.keep()
        assert incoming.path.read_bytes() == b"onetwo"
    assert files_in(tmp_path) == {f"videos/{incoming.video_id}/content"}


async def test_nothing_is_left_of_an_upload_that_is_not_kept(files: LocalVideoFiles, tmp_path: Path) -> None:
    async with files.receive() as incoming:
        await incoming.write(b"one")
    async with files.receive() as incoming:
        with pytest.raises(UploadEmptyError):
            await incoming.keep()
    assert files_in(tmp_path) == set()
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_nothing_is_left_of_an_upload_that_is_cancelled_while_it_writes(
    files: LocalVideoFiles, tmp_path: Path
) -> None:
    began = asyncio.Event()

    async def receive() -> None:
        async with files.receive() as incoming:
            began.set()
            while True:
                await incoming.write(b"x" * 1_000_000)

    receiver = asyncio.ensure_future(receive())
    await began.wait()
    receiver.cancel()
    await asyncio.gather(receiver, return_exceptions=True)
    assert files_in(tmp_path) == set()


async def test_nothing_is_left_of_an_upload_that_is_cancelled_while_it_is_kept(
    files: LocalVideoFiles, tmp_path: Path
) -> None:
    keeping = asyncio.Event()

    async def receive() -> None:
        async with files.receive() as incoming:
            await incoming.write(b"x" * 10_000_000)
            keeping.set()
            await incoming.keep()
            await asyncio.Event().wait()

    receiver = asyncio.ensure_future(receive())
    await keeping.wait()
    receiver.cancel()
    await asyncio.gather(receiver, return_exceptions=True)
    assert files_in(tmp_path) == set()


async def test_an_upload_cannot_be_written_to_after_its_end(files: LocalVideoFiles) -> None:
    async with files.receive() as incoming:
        pass
    with pytest.raises(StorageError):
        await incoming.write(b"late")


async def test_what_a_crash_left_of_uploads_is_swept(files: LocalVideoFiles, tmp_path: Path) -> None:
    (tmp_path / "incoming" / "vid_1").mkdir(parents=True)
    (tmp_path / "incoming" / "vid_1" / "content").write_bytes(b"half")
    assert await files.sweep_incoming() == 1
    assert await files.sweep_incoming() == 0
    assert files_in(tmp_path) == set()


async def test_an_index_is_never_seen_half_written(files: LocalVideoFiles, tmp_path: Path) -> None:
    await files.save_index("vid_1", SOME_INDEX)
    assert files_in(tmp_path) == {"videos/vid_1/index"}
    index = tmp_path / "videos" / "vid_1" / "index"
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(StorageError):
        await files.load_index("vid_1")


async def test_a_data_directory_that_is_full_of_a_file_is_a_storage_error(
    files: LocalVideoFiles, tmp_path: Path
) -> None:
    (tmp_path / "incoming").write_bytes(b"in the way")
    with pytest.raises(StorageError):
        async with files.receive():
            pass


async def test_an_archive_has_row_groups_of_a_thousand_frames(archive: ParquetArchive, tmp_path: Path) -> None:
    await archive.write("run_1", pieces(*(candidates_of(range(n, n + 64), per_frame=3) for n in range(0, 6400, 64))))
    with pq.ParquetFile(tmp_path / "runs" / "run_1" / "candidates.parquet") as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        assert [group.num_rows for group in groups] == [3 * FRAMES_A_GROUP] * 6 + [3 * 400]


async def test_a_page_comes_from_its_own_row_groups_only(archive: ParquetArchive, tmp_path: Path) -> None:
    await archive.write("run_1", pieces(candidates_of(range(10_000))))
    path = tmp_path / "runs" / "run_1" / "candidates.parquet"
    with pq.ParquetFile(path) as file:
        start = file.metadata.row_group(0).column(0).data_page_offset
        end = file.metadata.row_group(4).column(0).data_page_offset
    # What is not read cannot be missed: the first four groups are destroyed.
    stored = bytearray(path.read_bytes())
    stored[start : end - 500] = bytes(end - 500 - start)
    path.write_bytes(stored)
    read = [group async for group in archive.read("run_1", first_frame=5500, last_frame=6499)]
    assert [len(group) for group in read] == [500, 500]


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" + bytes(100) + b"PAR1"])
async def test_a_damaged_archive_is_a_storage_error(archive: ParquetArchive, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "runs" / "run_1").mkdir(parents=True)
    (tmp_path / "runs" / "run_1" / "candidates.parquet").write_bytes(content)
    with pytest.raises(StorageError):
        _ = [group async for group in archive.read("run_1", first_frame=0, last_frame=None)]


async def test_an_archive_that_is_cancelled_leaves_no_file(archive: ParquetArchive, tmp_path: Path) -> None:
    written = asyncio.Event()

    async def endless() -> AsyncIterator[Candidates]:
        yield candidates_of(range(5000))
        written.set()
        await asyncio.Event().wait()

    writer = asyncio.ensure_future(archive.write("run_1", endless()))
    await written.wait()
    assert files_in(tmp_path) == {"runs/run_1/candidates.parquet.unfinished"}
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    assert files_in(tmp_path) == set()


async def test_what_a_crash_left_of_an_archive_is_replaced(archive: ParquetArchive, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run_1").mkdir(parents=True)
    (tmp_path / "runs" / "run_1" / "candidates.parquet.unfinished").write_bytes(b"half")
    await archive.write("run_1", pieces(candidates_of(range(3))))
    assert files_in(tmp_path) == {"runs/run_1/candidates.parquet"}


async def test_two_servers_that_archive_one_run_at_once_never_mix_their_files(tmp_path: Path, threads: Threads) -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow_pieces() -> AsyncIterator[Candidates]:
        yield candidates_of(range(FRAMES_A_GROUP + 1))
        has_begun.set()
        await may_end.wait()
        yield candidates_of(range(FRAMES_A_GROUP + 1, 2 * FRAMES_A_GROUP))

    one, other = ParquetArchive(tmp_path, threads), ParquetArchive(tmp_path, threads)
    slow = asyncio.ensure_future(one.write("run", slow_pieces()))
    await has_begun.wait()
    with pytest.raises(StorageError) as raised:
        await other.write("run", pieces(candidates_of(range(FRAMES_A_GROUP))))
    assert raised.value.retryable
    may_end.set()
    await slow
    assert pq.read_metadata(tmp_path / "runs" / "run" / "candidates.parquet").num_rows == 2 * FRAMES_A_GROUP
    await other.write("run", pieces(candidates_of(range(3))))
    assert files_in(tmp_path) == {"runs/run/candidates.parquet"}
