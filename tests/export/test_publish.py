"""Weights in, a certified version in the repository out, through a real Triton."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from export.evidence import load_pictures
from export.graph import join_to_contract
from export.publish import Draft, publish, publish_draft
from export.repository import published_cards
from export.spec import ExportSpec, Precision
from export.to_onnx import export_raw, load_source
from orchestrator.core.contract import CERTIFICATE_FILE, METADATA_FILE
from orchestrator.errors import CertificateFailedError
from orchestrator.inference.catalogue import TritonCatalogue
from orchestrator.inference.connection import open_connection
from orchestrator.inference.embedded import open_embedded_triton
from orchestrator.settings import TritonSettings, load_settings
from orchestrator.telemetry import Metrics
from tests.export.detectors import CLASS_NAMES, write_checkpoint
from tests.support.needs import SHARED_DATA

pytestmark = pytest.mark.needs("triton")


@pytest.fixture
def triton(tmp_path: Path) -> TritonSettings:
    settings = load_settings(os.environ)
    return dataclasses.replace(settings.triton, urls=(), model_repository=tmp_path / "models")


def spec_for(weights: Path, triton: TritonSettings, name: str) -> ExportSpec:
    return ExportSpec(weights=weights, name=name, repository=triton.model_repository)


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["yolov8n", "yolo11n", "yolo26n"])
async def test_every_family_is_published_with_a_passing_certificate(
    tmp_path: Path, triton: TritonSettings, kind: str
) -> None:
    said: list[str] = []
    spec = spec_for(write_checkpoint(tmp_path / "weights.pt", kind), triton, kind)
    published = await publish(spec, triton, said.append)
    assert (published.name, published.version, published.is_loaded) == (kind, 1, False)
    assert published.card.certificate == "passed"
    assert published.card.class_names == CLASS_NAMES
    assert published.card.digest == hashlib.sha256((published.folder / "model.onnx").read_bytes()).hexdigest()
    assert published.card.weights_sha256 == hashlib.sha256(spec.weights.read_bytes()).hexdigest()
    assert sorted(path.name for path in published.folder.iterdir()) == sorted(
        [CERTIFICATE_FILE, "labels.txt", METADATA_FILE, "model.onnx", "model.py"]
    )
    certificate = json.loads((published.folder / CERTIFICATE_FILE).read_text())
    assert certificate["triton"]["boxes_compared"] > certificate["boxes"] >= 50
    assert (published.folder / "labels.txt").read_text().split() == list(CLASS_NAMES)
    assert any("trtexec" in line or "TensorRT plan for" in line for line in said)


async def test_a_float16_version_is_published_with_a_certificate_of_float16(
    tmp_path: Path, triton: TritonSettings
) -> None:
    weights = write_checkpoint(tmp_path / "weights.pt", "yolo11n", is_calm=True)
    spec = dataclasses.replace(spec_for(weights, triton, "half"), precision=Precision.FLOAT16)
    published = await publish(spec, triton, lambda line: None)
    assert (published.card.precision, published.card.certificate) == ("float16", "passed")
    assert published_cards(spec.model_folder) == {1: published.card}
    certificate, metadata = (
        json.loads((published.folder / name).read_text()) for name in (CERTIFICATE_FILE, METADATA_FILE)
    )
    assert (certificate["limits"]["precision"], metadata["card"]["precision"]) == ("float16", "float16")
    assert certificate["triton"]["boxes_compared"] > certificate["boxes"] >= 50
    # Two bytes a weight, and the rest of the graph.
    weights_count = sum(parameter.numel() for parameter in load_source(weights, None).detector.parameters())
    assert (published.folder / "model.onnx").stat().st_size < 3 * weights_count


async def test_a_spoiled_version_publishes_nothing_and_a_good_one_is_the_next(
    tmp_path: Path, triton: TritonSettings
) -> None:
    spec = spec_for(write_checkpoint(tmp_path / "weights.pt", "yolov8n"), triton, "shapes")
    source = load_source(spec.weights, None)
    raw = export_raw(source)
    good, spoiled = (
        Draft(
            spec=spec,
            source=source,
            graph=join_to_contract(raw, head=source.head, class_count=len(CLASS_NAMES), floor=spec.floor, iou=iou),
        )
        for iou in (spec.iou, 0.3)
    )
    with pytest.raises(CertificateFailedError, match="shapes was not published"):
        await publish_draft(spoiled, triton, lambda line: None)
    assert not triton.model_repository.exists()

    first = await publish_draft(good, triton, lambda line: None)
    before = content_of(triton.model_repository)
    with pytest.raises(CertificateFailedError):
        await publish_draft(spoiled, triton, lambda line: None)
    assert content_of(triton.model_repository) == before

    second = await publish_draft(good, triton, lambda line: None)
    assert (first.version, second.version) == (1, 2)
    assert published_cards(spec.model_folder) == {1: first.card, 2: second.card}


async def test_a_running_triton_serves_the_version_at_once(tmp_path: Path, triton: TritonSettings) -> None:
    triton.model_repository.mkdir()
    spec = spec_for(write_checkpoint(tmp_path / "weights.pt", "yolov8n"), triton, "shapes")
    metrics = Metrics(CollectorRegistry())
    async with open_embedded_triton(triton, log_dir=tmp_path / "logs", metrics=metrics) as server:
        published = await publish(spec, dataclasses.replace(triton, urls=(server.grpc_url,)), lambda line: None)
        async with open_connection(server.grpc_url) as connection:
            served = await TritonCatalogue(connection, timeout_s=30, now=time.monotonic).find("shapes")
    assert published.is_loaded
    assert (served.version.version, served.card) == (1, published.card)


@pytest.mark.needs("shared_data")
async def test_shared_yolo11n_is_published_on_frames_of_a_video(tmp_path: Path, triton: TritonSettings) -> None:
    weights = SHARED_DATA / "models" / "yolo11n-coco.pt"
    frames = SHARED_DATA / "videos" / "car-detection.mp4"
    spec = dataclasses.replace(spec_for(weights, triton, "yolo11n"), frames=frames)
    assert len(load_pictures(frames)) == 32
    published = await publish(spec, triton, lambda line: None)
    assert published.card.certificate == "passed"
    assert (published.card.imgsz, published.card.stride, len(published.card.class_names)) == (640, 32, 80)
