"""The shell scripts, and what the Makefile promises about set-up."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import ROOT

FIND_PYTHON = ROOT / "requirements" / "find_python.sh"
SCRIPTS = sorted(
    [*ROOT.glob("requirements/*.sh"), *ROOT.glob("deploy/**/*.sh"), ROOT / ".ci/run", *ROOT.glob(".githooks/*")]
)


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def find_python(*arguments: str, path: str, python: str = "") -> subprocess.CompletedProcess[str]:
    env = {"PATH": path, "PYTHON": python}
    return subprocess.run(["/bin/sh", FIND_PYTHON, *arguments], env=env, capture_output=True, text=True, timeout=30)


@pytest.mark.needs("shellcheck")
def test_shell_scripts_are_clean() -> None:
    subprocess.run(["shellcheck", *SCRIPTS], check=True)


def test_scripts_can_be_executed() -> None:
    assert [script.name for script in SCRIPTS if not os.access(script, os.X_OK)] == []


def test_a_missing_python_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    # A launcher that is there and refuses to run, as pyenv's do, is no Python.
    program(tmp_path, "python3.11", "exit 127")
    answer = find_python(path=str(tmp_path))
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "apt-get install python3.11-venv" in answer.stderr


def test_a_chosen_python_that_does_not_fit_is_refused_and_not_replaced(tmp_path: Path) -> None:
    answer = find_python(path=os.environ["PATH"], python=str(program(tmp_path, "python3.9", "exit 1")))
    assert answer.returncode == 1
    assert "is no Python 3.11 or 3.12" in answer.stderr


@pytest.mark.parametrize(
    ("lacks", "command"),
    [("*ensurepip*", "apt-get install python3.11-venv"), ("*INSTSONAME*", "apt-get install libpython3.11")],
)
def test_a_python_in_pieces_is_named_with_the_package_that_completes_it(
    tmp_path: Path, lacks: str, command: str
) -> None:
    # Says what the script asks of a Python 3.11, but that the piece under test is missing.
    body = f'case "$2" in {lacks}) exit 1;; *executable*) echo "$0";; *%d.%d*) echo 3.11;; esac'
    fake = program(tmp_path, "fake-python", body)
    answer = find_python("triton", path=os.environ["PATH"], python=str(fake))
    assert answer.returncode == 1
    assert command in answer.stderr


def test_a_whole_python_is_found(tmp_path: Path) -> None:
    fake = program(tmp_path, "fake-python", 'case "$2" in *executable*) echo "$0";; *%d.%d*) echo 3.11;; esac')
    answer = find_python("triton", path=os.environ["PATH"], python=str(fake))
    assert answer.stdout.strip() == str(fake)
    assert answer.stderr == ""


def test_every_make_command_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    named = {name for path in documents for name in re.findall(r"(?:`|\$ )make ([a-z-]+)", path.read_text())}
    assert {"demo", "test"} <= named
    assert named - targets == set()


def test_make_refuses_an_export_without_weights_before_it_installs_anything() -> None:
    answer = subprocess.run(["make", "model", "NAME=x"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert answer.returncode != 0
    assert "WEIGHTS=file.pt is missing" in answer.stderr
    assert "Setting up" not in answer.stdout
