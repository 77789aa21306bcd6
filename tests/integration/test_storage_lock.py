"""One server a data directory, or several that share it; who is alone knows it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.errors import DataDirLockedError, StorageError
from orchestrator.storage.lock import LOCK_FILE, locked_data_dir, shared_data_dir

HOLDER = """
import sys
from pathlib import Path
from orchestrator.storage.lock import locked_data_dir
with locked_data_dir(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_server(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_server_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    with another_server(tmp_path) as process:
        with pytest.raises(DataDirLockedError, match=f"process id {process.pid};"), locked_data_dir(tmp_path):
            pass
        process.communicate()
    with locked_data_dir(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"


def test_a_killed_server_holds_nothing(tmp_path: Path) -> None:
    with another_server(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked_data_dir(tmp_path):
            pass


def test_the_directory_is_made_and_the_lock_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked_data_dir(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError), locked_data_dir(tmp_path / "file" / "data"):
        pass


async def test_servers_that_share_come_in_once_the_first_has_settled(tmp_path: Path) -> None:
    async def come_in() -> bool:
        async with shared_data_dir(tmp_path) as hold:
            await hold.settle()
            return hold.is_alone

    async with shared_data_dir(tmp_path) as first:
        assert first.is_alone
        second = asyncio.ensure_future(come_in())
        with pytest.raises(DataDirLockedError, match=str(os.getpid())):
            async with shared_data_dir(tmp_path, start_wait_s=0):
                pass
        assert not second.done()
        await first.settle()
        assert not await second
    assert await come_in()


async def test_who_is_alone_and_who_shares_keep_each_other_out(tmp_path: Path) -> None:
    with locked_data_dir(tmp_path), pytest.raises(DataDirLockedError):
        async with shared_data_dir(tmp_path, start_wait_s=0):
            pass
    async with shared_data_dir(tmp_path) as hold:
        await hold.settle()
        with pytest.raises(DataDirLockedError), locked_data_dir(tmp_path):
            pass
