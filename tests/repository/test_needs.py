"""The marker that keeps skips visible, and turns them into failures in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import LACKS, PROMISED_NEEDS, ROOT, promised_needs

TEST = """
import pytest

@pytest.mark.needs("docker_compose")
def test_with_a_need():
    pass
"""


def outcome(folder: Path, *, promised: str) -> str:
    """The last lines of a pytest run with one test that needs docker-compose, on a machine with nothing installed."""
    file = folder / "test_needs.py"
    file.write_text(TEST)
    env = {**os.environ, "PATH": str(folder), PROMISED_NEEDS: promised}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", ROOT / "pyproject.toml", "-q", file]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout


def test_a_missing_need_skips_and_says_what_to_install(tmp_path: Path) -> None:
    lines = outcome(tmp_path, promised="")
    assert "1 skipped" in lines
    assert "apt-get install docker-compose" in lines


def test_a_missing_need_that_was_promised_fails(tmp_path: Path) -> None:
    lines = outcome(tmp_path, promised="docker_compose")
    assert "1 error" in lines
    assert "docker_compose was promised, but docker-compose is not installed" in lines


def test_a_promise_of_something_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="names dockr; needs are"):
        promised_needs({PROMISED_NEEDS: "triton,dockr"})


def test_every_need_answers_with_a_reason_or_nothing() -> None:
    assert all(lack() is None or lack() for lack in LACKS.values())
