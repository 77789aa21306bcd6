"""The README tells what the code does: its tables are compared with it."""

from __future__ import annotations

import re

from orchestrator.settings import VARIABLES
from tests.support.needs import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def table_rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading, without its two head lines."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_settings_table_is_the_codes() -> None:
    written = [tuple(row) for row in table_rows("Settings")]
    actual = [
        (f"`{variable.name}`", f"`{variable.default}`" if variable.default else "unset", variable.meaning)
        for variable in VARIABLES
    ]
    assert written == actual


def test_every_file_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
