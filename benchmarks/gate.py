"""The accuracy gate: no speed counts while a box is lost, added or moved.

Two proofs: the certificate that publishing makes of the model, on crowded mosaics at every position of a batch, and
the golden detections of a whole clip, against what a job over REST stores of it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.lab import Bench, Lab, MeasurementError, open_bench
from benchmarks.table import Row, at_most
from export.comparison import FLOAT32, Comparison
from orchestrator.client import SubmitJob, ViewQuery
from orchestrator.core.contract import CERTIFICATE_FILE, DEFAULT_CONFIDENCE

MOST_TOLD: Final = 3


def publish(weights: Path, name: str, repository: Path, *, export_python: Path) -> Path:
    """Publish a model as a user does; its first version's folder. Raises MeasurementError with the last words."""
    command = [str(export_python), "-m", "export", str(weights), name, "--repository", str(repository)]
    published = subprocess.run(command, capture_output=True, text=True, check=False)
    if published.returncode:
        raise MeasurementError(f"the model was not published:\n{published.stdout}{published.stderr}")
    return repository / name / "1"


def gate(lab: Lab) -> list[Row]:
    """Both proofs; the second one where golden detections of the clip are at hand."""
    rows = [_certificate(lab)]
    if lab.golden is not None:
        with open_bench(lab) as bench:
            rows.append(_golden(lab, bench, lab.golden))
    return rows


def _certificate(lab: Lab) -> Row:
    certificate = json.loads((lab.graph.parent / CERTIFICATE_FILE).read_text())
    failures = len(certificate["graph"]["failures"]) + len(certificate["triton"]["failures"])
    return Row(
        name="gate.mosaics",
        value=failures if certificate["verdict"] == "passed" else float("nan"),
        target=at_most(0),
        beside={"verdict": certificate["verdict"], "boxes": certificate["boxes"]},
    )


def _golden(lab: Lab, bench: Bench, golden: Path) -> Row:
    frames = json.loads(golden.read_text())["frames"]
    expected = [np.array(rows, dtype=np.float32).reshape(-1, 6) for rows in frames]
    job = bench.run(SubmitJob(video_id=bench.upload(lab.video).id, model=lab.model))
    comparison = Comparison(limits=FLOAT32)
    # Boxes near the threshold may fall on either side of it.
    view = ViewQuery(conf=DEFAULT_CONFIDENCE - FLOAT32.border)
    found = 0
    for frame in bench.client.frames(job.id, view=view):
        boxes = [[*box.xyxy, box.confidence, box.class_id] for box in frame.detections]
        given = np.array(boxes, dtype=np.float32).reshape(-1, 6)
        comparison.add(expected[frame.frame_index], given, f"frame {frame.frame_index}")
        found += 1
    missing = len(expected) - found
    return Row(
        name="gate.golden_boxes",
        value=len(comparison.failures) + missing,
        target=at_most(0),
        beside={
            "frames": comparison.frames,
            "boxes": comparison.boxes,
            "least IoU": comparison.least_iou,
            **({"first": comparison.failures[:MOST_TOLD]} if comparison.failures else {}),
        },
    )
