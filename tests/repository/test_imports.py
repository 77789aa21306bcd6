"""What is expensive to import stays out of the programs that do not need it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.needs import ROOT


@pytest.mark.parametrize(("module", "unwanted"), [("orchestrator.formats.format_table", "pyarrow")])
def test_a_module_does_without(module: str, unwanted: str) -> None:
    program = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
