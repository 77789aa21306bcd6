"""`python -m export WEIGHTS NAME`: export, certify and publish; the server never needs PyTorch."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from export.spec import ExportSpec, Precision
from orchestrator.core.contract import DEFAULT_FLOOR, DEFAULT_IOU
from orchestrator.errors import ExportError, TrireelError
from orchestrator.settings import Settings, load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 published, 1 refused or failed. arguments: of the command line unless given."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(os.environ)
        run(spec_from(options, settings), settings)
    except TrireelError as exc:
        sys.stderr.write(f"export: {exc}\n")
        return 1
    return 0


def run(spec: ExportSpec, settings: Settings) -> None:
    """Do one export and say what happens. Raises ExportError and the errors of `publish`."""
    try:
        from export.publish import publish  # PyTorch takes seconds to import: not for --help or a wrong argument.
    except ModuleNotFoundError as exc:
        raise ExportError(
            f"{exc.name} is not installed here; `make model` sets up the environment that has it"
        ) from exc
    asyncio.run(publish(spec, settings.triton, say))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export", description="Turn Ultralytics weights into a certified model version."
    )
    parser.add_argument("weights", type=Path, help="checkpoint of a detector: YOLOv8, YOLO11, YOLO26 (.pt)")
    parser.add_argument("name", help="name of the model; a name that exists gets another version")
    parser.add_argument("--frames", type=Path, help="folder of images, or a video, to certify with")
    parser.add_argument("--imgsz", type=int, help="longer side of a frame in model px (what it was trained with)")
    parser.add_argument(
        "--floor", type=float, default=DEFAULT_FLOOR, help="least confidence stored (%(default)s; 0.001 to measure mAP)"
    )
    parser.add_argument("--iou", type=float, default=DEFAULT_IOU, help="IoU of the suppression (%(default)s)")
    parser.add_argument(
        "--half", action="store_true", help="let the network compute in float16: for GPUs; certified with looser limits"
    )
    parser.add_argument("--repository", type=Path, help="model repository (TRIREEL_MODEL_REPOSITORY)")
    return parser


def spec_from(options: argparse.Namespace, settings: Settings) -> ExportSpec:
    """Raises ExportError where an argument cannot be meant."""
    return ExportSpec(
        weights=options.weights,
        name=options.name,
        repository=options.repository or settings.triton.model_repository,
        floor=options.floor,
        iou=options.iou,
        imgsz=options.imgsz,
        frames=options.frames,
        precision=Precision.FLOAT16 if options.half else Precision.FLOAT32,
    )


if __name__ == "__main__":
    sys.exit(main())
