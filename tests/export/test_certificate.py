"""A certificate passes what agrees with the source network and fails everything that is spoiled."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.certificate import Certificate, Infer, Verdict, certify
from export.comparison import FLOAT16, FLOAT32, Limits
from export.evidence import BATCH, Evidence, gather_evidence
from export.graph import join_to_contract
from export.spec import Precision
from export.to_onnx import SourceNetwork, answer_of_source, export_raw
from orchestrator.core.contract import CANDIDATES, FRAMES
from tests.export.detectors import bus, crops, source_of

FLOOR, IOU = 0.05, 0.7
CONFIDENCE = 4

Spoil = Callable[[NDArray[np.float32]], None]


@dataclass(frozen=True)
class Exported:
    source: SourceNetwork
    raw: onnx.ModelProto
    evidence: list[Evidence]
    limits: Limits

    def graph(self, *, iou: float = IOU) -> onnx.ModelProto:
        source = self.source
        return join_to_contract(self.raw, head=source.head, class_count=len(source.class_names), floor=FLOOR, iou=iou)

    def certificate(self, graph: onnx.ModelProto, infer: Infer, evidence: list[Evidence] | None = None) -> Certificate:
        evidence = evidence or self.evidence
        answers = [answer_of_source(self.source, item.frames, floor=FLOOR, iou=IOU) for item in evidence]
        return asyncio.run(
            certify(graph, evidence, answers, infer, limits=self.limits, suppression_iou=IOU, made_with={})
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = source_of(tmp_path_factory.mktemp("weights"), "yolo11n")
    evidence = gather_evidence([bus()], imgsz=source.imgsz, stride=source.stride)
    return Exported(source, export_raw(source), evidence, FLOAT32)


@pytest.fixture(scope="module")
def exported_half(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = source_of(tmp_path_factory.mktemp("weights"), "yolo11n", is_calm=True)
    evidence = gather_evidence([bus()], imgsz=source.imgsz, stride=source.stride)
    return Exported(source, export_raw(source, Precision.FLOAT16), evidence, FLOAT16)


def served(graph: onnx.ModelProto, spoil: Spoil = lambda candidates: None) -> Infer:
    """A server of `graph` that treats every answer with `spoil`."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def infer(frames: NDArray[np.uint8]) -> Awaitable[NDArray[np.float32]]:
        (candidates,) = session.run([CANDIDATES], {FRAMES: frames})
        spoil(candidates)
        answer: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        answer.set_result(candidates)
        return answer

    return infer


def test_an_honest_graph_passes_on_every_position_of_the_largest_batch(exported: Exported) -> None:
    graph = exported.graph()
    certificate = exported.certificate(graph, served(graph))
    assert certificate.verdict is Verdict.PASSED, certificate.reason
    assert certificate.boxes >= 50
    assert max(len(item.frames) for item in certificate.evidence) == BATCH
    assert certificate.triton.boxes == certificate.graph.boxes > certificate.boxes


def test_another_suppression_fails(exported: Exported) -> None:
    graph = exported.graph(iou=0.3)
    certificate = exported.certificate(graph, served(graph))
    assert certificate.verdict is Verdict.FAILED
    assert any("lost" in failure for failure in certificate.graph.failures)


def test_another_network_fails(exported: Exported, tmp_path: Path) -> None:
    other = source_of(tmp_path, "yolov8n")
    graph = join_to_contract(
        export_raw(other), head=other.head, class_count=len(other.class_names), floor=FLOOR, iou=IOU
    )
    certificate = exported.certificate(graph, served(graph))
    assert certificate.verdict is Verdict.FAILED
    assert certificate.raw.failures


def only_the_first_frame(candidates: NDArray[np.float32]) -> None:
    candidates[1:] = 0


def weaker(candidates: NDArray[np.float32]) -> None:
    candidates[..., CONFIDENCE] *= 0.98


def moved(candidates: NDArray[np.float32]) -> None:
    candidates[..., :4] += 0.5


def without_the_best(candidates: NDArray[np.float32]) -> None:
    candidates[:, 0] = 0


def swapped(candidates: NDArray[np.float32]) -> None:
    candidates[:] = candidates[::-1].copy()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (only_the_first_frame, "position 1: lost"),
        (weaker, "confidence moved"),
        (moved, "IoU"),
        (without_the_best, "lost"),
        (swapped, "lost"),
    ],
)
def test_a_server_that_answers_otherwise_fails(exported: Exported, spoil: Spoil, complaint: str) -> None:
    graph = exported.graph()
    certificate = exported.certificate(graph, served(graph, spoil), exported.evidence[:1])
    assert certificate.verdict is Verdict.FAILED
    assert certificate.graph.failures == []
    assert any(complaint in failure for failure in certificate.triton.failures)


def test_few_boxes_make_it_weak(exported: Exported) -> None:
    graph = exported.graph()
    certificate = exported.certificate(graph, served(graph), [Evidence("one small frame", crops(1, 32, 32))])
    assert certificate.verdict is Verdict.WEAK
    assert "FRAMES=" in certificate.reason


def test_a_float16_graph_passes_the_limits_of_float16_and_says_so(exported_half: Exported) -> None:
    graph = exported_half.graph()
    certificate = exported_half.certificate(graph, served(graph))
    assert certificate.verdict is Verdict.PASSED, certificate.reason
    limits = certificate.to_document()["limits"]
    assert isinstance(limits, dict)
    assert (limits["precision"], limits["least_iou"]) == ("float16", FLOAT16.least_iou)


def test_a_float16_graph_fails_the_limits_of_float32(exported_half: Exported) -> None:
    strict = dataclasses.replace(exported_half, limits=FLOAT32)
    graph = strict.graph()
    assert strict.certificate(graph, served(graph)).verdict is Verdict.FAILED


def much_weaker(candidates: NDArray[np.float32]) -> None:
    candidates[..., CONFIDENCE] *= 0.9


def larger(candidates: NDArray[np.float32]) -> None:
    candidates[..., 2:4] += 1.5


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (only_the_first_frame, "position 1: lost"),
        (much_weaker, "confidence moved"),
        (larger, "ties among"),
        (without_the_best, "lost"),
    ],
)
def test_a_float16_version_spoiled_beyond_its_limits_fails(
    exported_half: Exported, spoil: Spoil, complaint: str
) -> None:
    graph = exported_half.graph()
    certificate = exported_half.certificate(graph, served(graph, spoil), exported_half.evidence[:1])
    assert certificate.verdict is Verdict.FAILED
    assert certificate.graph.faults() == []
    assert any(complaint in failure for failure in certificate.triton.faults()), certificate.triton.faults()[:3]
