"""The table on paper: a JSON file with the machine's description, and its Markdown in BENCHMARKS.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.table import Row

# A ratio may be worse than the table says by so much before the guard calls it a regression.
MOST_FALL: Final = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """made_at: a day. command: that makes it again."""

    machine: Mapping[str, object]
    made_at: str
    command: str
    rows: Sequence[Row]

    def document(self) -> dict[str, object]:
        """JSON's types only."""
        return {
            "machine": dict(self.machine),
            "made_at": self.made_at,
            "command": self.command,
            "rows": [row.document() for row in self.rows],
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.document(), indent=2) + "\n")

    def markdown(self) -> str:
        """A section for BENCHMARKS.md."""
        machine = "{cpu}, {cores} cores, {memory_gib} GiB".format_map(self.machine)
        lines = [
            f"{machine}; {self.made_at}; `{self.command}`",
            "",
            "| row | value | spread | target | |",
            "| --- | ---: | --- | --- | --- |",
        ]
        for row in self.rows:
            spread = f"{row.spread[0]:.3g} to {row.spread[1]:.3g}" if row.spread else ""
            verdict = "pass" if row.is_met else "**FAIL**"
            value = f"{row.value:.3g} {row.unit}".strip()
            lines.append(f"| `{row.name}` | {value} | {spread} | {row.target.bound} {row.target.value:g} | {verdict} |")
        return "\n".join(lines) + "\n"


def write_between_marks(path: Path, mark: str, text: str) -> None:
    """Replace what stands between `<!-- mark -->` and `<!-- /mark -->`. Raises ValueError where they are not."""
    content = path.read_text()
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    head, found_begin, rest = content.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{path} has no place marked {mark}")
    path.write_text(head + begin + text + end + tail)


def committed_rows(path: Path) -> list[Row]:
    """The rows of a written report."""
    document: Any = json.loads(path.read_text())
    return [Row.from_document(row) for row in document["rows"]]


def with_new(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The rows, those that were measured anew in their places and unheard-of ones behind."""
    by_name = {row.name: row for row in new}
    return [by_name.pop(row.name, row) for row in rows] + list(by_name.values())


def fallen(rows: Sequence[Row], committed: Mapping[str, float]) -> list[str]:
    """A sentence for each ratio more than 15 % below the committed one; other rows are of their machine."""
    return [
        f"{row.name} is {row.value:.3g}, more than {MOST_FALL:.0%} below the {committed[row.name]:.3g} of the table"
        for row in rows
        if not row.unit and row.name in committed and row.value < (1 - MOST_FALL) * committed[row.name]
    ]
