"""`python -m benchmarks`: the table of BENCHMARKS.md; `make bench` sets up what it needs."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.gate import publish
from benchmarks.lab import Lab, MeasurementError
from benchmarks.machine import describe_machine
from benchmarks.pairs import PAIRS
from benchmarks.report import Report, committed_rows, fallen, with_new, write_between_marks
from benchmarks.suite import BENCHMARKS, GATE, GUARDED, Benchmark
from benchmarks.table import Row

ROOT: Final = Path(__file__).resolve().parents[1]
# Real material that lies beside some checkouts and is never part of one.
DATA: Final = ROOT.parent / "shared" / "data"
LATEST: Final = {device: ROOT / "benchmarks" / f"latest_{device}.json" for device in ("cpu", "gpu")}
PAGE: Final = ROOT / "BENCHMARKS.md"
MODEL: Final = "yolo11n"
GUARD_PAIRS: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 when every row meets its target, or the guard found no regression."""
    options = build_parser().parse_args(arguments)
    try:
        with open_lab(options) as lab:
            return guard(lab) if options.guard else measure(lab, options)
    except MeasurementError as exc:
        sys.stderr.write(f"benchmarks: {exc}\n")
        return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(BENCHMARKS), help="one benchmark; may be repeated")
    parser.add_argument("--guard", action="store_true", help="the quick rows against the committed table")
    parser.add_argument("--weights", type=Path, default=DATA / "models" / "yolo11n-coco.pt", help="of YOLO11n")
    parser.add_argument(
        "--video", type=Path, default=DATA / "videos" / "car-detection.mp4", help="a real video without B-frames"
    )
    parser.add_argument(
        "--golden",
        type=Path,
        default=DATA / "golden" / "car-detection.yolo11n.json",
        help="what Ultralytics finds in every frame of the video",
    )
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how often two things are compared (%(default)s)")
    parser.add_argument("--gpu", action="store_true", help="measure on this machine's GPU, with ONNX Runtime's CUDA")
    parser.add_argument("--json", type=Path, help="write the rows and the machine there")
    parser.add_argument("--write", action="store_true", help="make this the committed table, or its rows of --only")
    return parser


@contextmanager
def open_lab(options: argparse.Namespace) -> Iterator[Lab]:
    """Publish the model and make room for files. Raises MeasurementError."""
    for path, option in ((options.weights, "--weights"), (options.video, "--video")):
        if not path.is_file():
            raise MeasurementError(f"there is no {path}; give another file with {option}")
    export_python = ROOT / ".venv-export" / "bin" / "python"
    os.environ.setdefault("TRIREEL_TRITON_ENV", str(ROOT / ".venv-triton"))
    with TemporaryDirectory(prefix="trireel-bench-") as name:
        scratch = Path(name)
        say("publishing the model, with its certificate")
        version = publish(options.weights, MODEL, scratch / "models", export_python=export_python)
        yield Lab(
            repository=scratch / "models",
            model=MODEL,
            graph=version / "model.onnx",
            video=options.video,
            golden=options.golden if options.golden.is_file() else None,
            scratch=scratch,
            triton_python=Path(os.environ["TRIREEL_TRITON_ENV"]) / "bin" / "python",
            export_python=export_python,
            pairs=options.pairs,
            device="gpu" if options.gpu else "cpu",
        )


def measure(lab: Lab, options: argparse.Namespace) -> int:
    """The gate, then all benchmarks or the chosen ones."""
    chosen = options.only or list(BENCHMARKS)
    rows = run("gate", GATE, lab)
    if not all(row.is_met for row in rows):
        raise MeasurementError("boxes were lost, added or moved: no speed counts")
    for name in chosen:
        rows += run(name, BENCHMARKS[name], lab)
    command = " ".join(["make bench", *(f"ONLY={name}" for name in options.only or ()), *(["GPU=1"] * options.gpu)])
    report = Report(
        machine=describe_machine(), made_at=datetime.now(UTC).date().isoformat(), command=command, rows=rows
    )
    if options.json is not None:
        report.write(options.json)
    if options.write:
        if options.only:
            # Beside rows of an earlier run: the command of those is the whole suite's, and stays.
            report = dataclasses.replace(
                report, command="make bench", rows=with_new(committed_rows(LATEST[lab.device]), rows)
            )
        report.write(LATEST[lab.device])
        write_between_marks(PAGE, f"table of a {lab.device}", report.markdown())
    return 0 if all(row.is_met for row in rows) else 1


def guard(lab: Lab) -> int:
    """The quick rows; one that fell is measured once more before it counts."""
    committed = {row.name: row.value for row in committed_rows(LATEST[lab.device])}
    quick = dataclasses.replace(lab, pairs=GUARD_PAIRS)
    regressions = []
    for name in GUARDED:
        if fallen(run(name, BENCHMARKS[name], quick), committed):
            regressions += fallen(run(name, BENCHMARKS[name], quick), committed)
    for regression in regressions:
        sys.stderr.write(f"benchmarks: {regression}\n")
    return 1 if regressions else 0


def run(name: str, benchmark: Benchmark, lab: Lab) -> list[Row]:
    """Run one benchmark and print its rows."""
    began_s = time.monotonic()
    rows = benchmark(lab)
    for row in rows:
        sys.stdout.write(f"{row.line()}\n")
    say(f"{name} took {time.monotonic() - began_s:.0f} s")
    return rows


def say(line: str) -> None:
    sys.stderr.write(f"  {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
