"""The program as a process: what it imports, how signals end it, and what it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.api_documents import Log
from tests.support.fake_api import FakeApi, fake_api
from tests.support.needs import ROOT

# What a command that only talks to a server has no use for, and pays for at every start.
HEAVY = {"av", "cv2", "numpy", "pyarrow", "sqlalchemy", "litestar", "tritonclient", "grpc", "orchestrator.bootstrap"}
# Where tests run in the background, SIGINT is ignored and children inherit that.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from orchestrator.__main__ import main; main()"
)
LISTING = (
    "import json, sys; from orchestrator.cli.program import program; program(sys.argv[1:], standalone_mode=False);"
    "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
)
TIMEOUT_S = 60


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as server:
        yield server


def environment(**more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TRIREEL_")}
    return {**plain, "PYTHONPATH": str(ROOT), **more}


def finished(arguments: Sequence[str], *, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def modules_after(*arguments: str, cwd: Path, url: str = "") -> set[str]:
    process = finished(["-c", LISTING, *arguments], cwd=cwd, TRIREEL_URL=url)
    return set(json.loads(process.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments", [["list"], ["status", "job_0"], ["models"], ["results", "job_0"], ["submit", "vid_0"]]
)
def test_commands_that_talk_to_a_server_import_nothing_heavy(
    api: FakeApi, tmp_path: Path, arguments: list[str]
) -> None:
    api.add_job("vid_0")
    assert modules_after(*arguments, cwd=tmp_path, url=api.url) & HEAVY == set()
    assert api.requests != []


def test_help_imports_no_client_either(tmp_path: Path) -> None:
    process = finished(["-X", "importtime", "-m", "orchestrator", "run", "--help"], cwd=tmp_path)
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "Usage: trireel run" in process.stdout
    assert imported & (HEAVY | {"httpx", "rich", "msgspec", "structlog"}) == set()


def test_wrong_settings_end_serve_with_2_and_are_all_named(tmp_path: Path) -> None:
    process = finished(["-m", "orchestrator", "serve"], cwd=tmp_path, TRIREEL_PORT="x", TRIREEL_DEVICE="tpu")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("trireel: settings_invalid: ")
    assert "TRIREEL_PORT" in process.stderr
    assert "TRIREEL_DEVICE" in process.stderr


def test_run_passes_on_what_is_wrong_with_the_settings_of_its_stack(tmp_path: Path) -> None:
    with fake_api() as gone:
        pass
    (tmp_path / "clip.mp4").write_bytes(b"a video")
    process = finished(
        ["-m", "orchestrator", "run", "clip.mp4"], cwd=tmp_path, TRIREEL_URL=gone.url, TRIREEL_DECODERS="many"
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.splitlines()[-1].startswith("trireel: settings_invalid: TRIREEL_DECODERS")


def interrupted(api: FakeApi, *arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit code and standard error of a command that gets Ctrl-C while it follows a job."""
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=cwd,
        env=environment(TRIREEL_URL=api.url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert api.is_streaming.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, errors


def test_ctrl_c_in_watch_leaves_the_job_alone(api: FakeApi, tmp_path: Path) -> None:
    api.add_job("vid_0")
    api.events["job_0"] = [Log("state", 1, {"job_id": "job_0", "state": "running"})]
    code, errors = interrupted(api, "watch", "job_0", cwd=tmp_path)
    assert (code, errors) == (130, "")
    assert [request.method for request in api.requests] == ["GET"]


def test_ctrl_c_in_run_cancels_the_job(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"a video")
    api.events["job_0"] = [Log("state", 1, {"job_id": "job_0", "state": "running"})]
    code, errors = interrupted(api, "run", "clip.mp4", cwd=tmp_path)
    assert code == 130
    assert errors.splitlines()[-1] == "trireel: interrupted: job job_0 is cancelled"
    assert api.jobs["job_0"]["state"] == "cancelled"


def test_export_is_handed_its_arguments_and_its_exit_code_is_ours(tmp_path: Path) -> None:
    python = tmp_path / ".venv-export" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\nexit 7\n')
    python.chmod(0o755)
    process = finished(["-m", "orchestrator", "export", "--weights", "a.pt", "--help", "-v"], cwd=tmp_path)
    assert (process.returncode, process.stdout) == (7, "-m export --weights a.pt --help -v\n")
