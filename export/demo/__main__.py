"""`python -m export.demo clip FOLDER` and `python -m export.demo train CHECKPOINT`: make the demo anew."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from export.demo.clip import FPS, write_clip, write_truth
from export.demo.scene import build_scene

CLIP_SEED: Final = 8
CLIP_SECONDS: Final = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.demo", description="Make the demo's clip or its weights.")
    commands = parser.add_subparsers(dest="command", required=True)
    clip = commands.add_parser("clip", help="write clip.mp4 and clip.json")
    clip.add_argument("folder", type=Path)
    clip.add_argument("--seed", type=int, default=CLIP_SEED)
    train = commands.add_parser("train", help="train the detector, on one thread")
    train.add_argument("checkpoint", type=Path)
    train.add_argument("--steps", type=int, default=2400, help="batches of 16 frames (%(default)s)")
    train.add_argument("--minutes", type=float, default=60, help="end earlier after this time (%(default)s)")
    train.add_argument("--seed", type=int, default=1_000_000, help="of the first scene (%(default)s)")
    train.add_argument("--start", type=Path, help="go on from this checkpoint, with another seed")
    options = parser.parse_args()
    if options.command == "clip":
        make_clip(options.folder, options.seed)
    else:
        from export.demo.train import Budget, train_on_one_thread  # PyTorch is not needed for clips.

        budget = Budget(steps=options.steps, seconds=options.minutes * 60)
        train_on_one_thread(options.checkpoint, budget, first_seed=options.seed, start=options.start, say=say)


def make_clip(folder: Path, seed: int) -> None:
    """Write `clip.mp4` and its truth into `folder`."""
    scene = build_scene(seed)
    truths = write_clip(folder / "clip.mp4", scene, frame_count=CLIP_SECONDS * FPS)
    write_truth(folder / "clip.json", scene, truths)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
