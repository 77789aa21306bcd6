"""Modules are found by their names and read in one go; part of `make check`."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.needs import ROOT

MOST_LINES_A_MODULE = 400
MOST_LINES_A_FUNCTION = 60

PACKAGES = ("orchestrator", "export", "trireel")
MODULES = sorted(path for folder in (*PACKAGES, "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))


# Names that a program looks for: Python's, pytest's, and the one that Triton's Python backend starts.
NAMED_BY_OTHERS = {"__init__", "__main__", "conftest", "model"}


@pytest.mark.parametrize("folders", [(*PACKAGES, "benchmarks"), ("tests",)])
def test_no_two_modules_share_a_name(folders: tuple[str, ...]) -> None:
    places = defaultdict(list)
    for path in MODULES:
        if path.relative_to(ROOT).parts[0] in folders and path.stem not in NAMED_BY_OTHERS:
            places[path.stem].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_module_is_too_long_to_read() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in sizes.items() if lines > MOST_LINES_A_MODULE} == {}


def test_no_function_is_too_long_to_read() -> None:
    sizes = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in sizes.items() if lines > MOST_LINES_A_FUNCTION} == {}


def contracts_of(kind: str) -> list[dict[str, list[str]]]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [contract for contract in pyproject["tool"]["importlinter"]["contracts"] if contract["type"] == kind]


def test_every_part_of_the_orchestrator_has_an_import_contract() -> None:
    protected = {name for contract in contracts_of("protected") for name in contract["protected_modules"]}
    children = {path.stem for path in (ROOT / "orchestrator").iterdir() if path.suffix == ".py" or path.is_dir()}
    parts = {f"orchestrator.{name}" for name in children - {"__init__", "__main__", "__pycache__", "errors", "py"}}
    assert parts - protected == set()


@pytest.mark.parametrize("folder", PACKAGES)
def test_modules_are_not_named_after_nothing(folder: str) -> None:
    names = {path.stem for path in MODULES if path.is_relative_to(ROOT / folder)}
    assert names & {"utils", "helpers", "common", "manager", "misc"} == set()


def test_published_python_files_are_the_ones_of_this_checkout() -> None:
    """The embedded Triton runs a copy of `embedded_model.py`; a copy that fell behind would be tested by nothing."""
    source = (ROOT / "export" / "embedded_model.py").read_text()
    copies: list[Path] = sorted((ROOT / "model_repository" / "demo_shapes").glob("*/model.py"))
    assert [str(copy) for copy in copies if copy.read_text() != source] == []
