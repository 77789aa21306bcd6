"""What the benchmarks print and what their guard fails on: a wrong verdict would hide a regression."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pairs import Cost, Pairs
from benchmarks.report import Report, committed_rows, fallen, with_new, write_between_marks
from benchmarks.table import Row, at_least, at_most, over, row_of_medians


def row(value: float, *, name: str = "e2e_vs_raw", unit: str = "") -> Row:
    return Row(name=name, value=value, target=at_least(0.9), unit=unit)


def report_of(*rows: Row) -> Report:
    machine = {"cpu": "A CPU", "cores": 2, "memory_gib": 24.0}
    return Report(machine=machine, made_at="2026-01-02", command="make bench", rows=rows)


@pytest.mark.parametrize(
    ("target", "met", "missed"),
    [(at_least(0.9), 0.9, 0.899), (at_most(0), 0, 1), (over(0), 0.1, 0), (at_least(0.9), 1, float("nan"))],
)
def test_a_target_is_met_or_missed(target: object, met: float, missed: float) -> None:
    assert isinstance(target, type(at_least(0)))
    assert target.is_met_by(met)
    assert not target.is_met_by(missed)


def test_a_line_names_the_row_its_value_its_target_and_the_verdict() -> None:
    line = row_of_medians("triton_tax.shm", [0.9, 0.99, 0.97], at_least(0.96), beside={"wall ratio": 0.5}).line()
    assert line.split()[:7] == ["triton_tax.shm", "0.97", "at", "least", "0.96", "pass", "0.9..0.99,"]
    assert line.endswith("wall ratio 0.5")
    assert " FAIL " in row(0.5).line() + " "


def test_a_ratio_of_costs_compares_frames_and_not_runs() -> None:
    pairs = Pairs(costs=((Cost(100, 1.0, 5.0), Cost(50, 1.0, 5.0)),), disturbed=0)
    assert pairs.cpu_ratios() == [0.5]
    assert pairs.wall_ratios() == [0.5]


def test_the_guard_fails_on_ratios_that_fell_by_more_than_15_percent_only() -> None:
    committed = {"e2e_vs_raw": 0.94, "cancel": 0.3}
    assert fallen([row(0.80)], committed) == []
    assert len(fallen([row(0.79)], committed)) == 1
    assert fallen([row(0.9, name="cancel", unit="s"), row(0.1, name="unheard of")], committed) == []


def test_a_written_report_is_what_the_guard_reads(tmp_path: Path) -> None:
    page = tmp_path / "BENCHMARKS.md"
    page.write_text("# Before\n<!-- table -->\nold\n<!-- /table -->\nafter\n")
    ratio = row_of_medians("e2e_vs_raw", [0.9, 0.94, 0.95], at_least(0.9), beside={"pairs": 3})
    report = report_of(ratio, row(1.5, name="start_up", unit="s"))
    write_between_marks(page, "table", report.markdown())
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("# Before\n<!-- table -->\n")
    assert text.endswith("<!-- /table -->\nafter\n")
    assert "| `e2e_vs_raw` | 0.94 | 0.9 to 0.95 | at least 0.9 | pass |" in text
    latest = tmp_path / "latest.json"
    report.write(latest)
    assert committed_rows(latest) == [*report.rows]


def test_rows_measured_anew_take_the_places_of_the_old() -> None:
    old, new, unheard_of = row(0.9), row(0.95), row(1, name="stride")
    rest = row(0.5, name="cancel")
    assert with_new([old, rest], [unheard_of, new]) == [new, rest, unheard_of]


def test_a_page_without_its_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "BENCHMARKS.md"
    page.write_text("# Before\n")
    with pytest.raises(ValueError, match="no place marked table"):
        write_between_marks(page, "table", "text")
    assert page.read_text() == "# Before\n"
