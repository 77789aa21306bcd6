"""Weights in, a certified version in the repository out: the straight line of the export.

read weights -> trace -> join to the contract -> scratch repository -> a Triton of its own -> certify -> publish
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import onnx

from export.certificate import Certificate, SourceAnswer, Verdict, certify
from export.comparison import LIMITS
from export.evidence import Evidence, gather_evidence, load_pictures
from export.graph import Head, join_to_contract
from export.repository import add_version, locked, write_configs
from export.scratch_triton import load_version, open_scratch_triton
from export.spec import ExportSpec
from export.to_onnx import PICTURES, SourceNetwork, answer_of_source, export_raw, load_source
from export.to_tensorrt import build_plan, has_tensorrt, trtexec_command
from export.triton_config import EMBEDDED_FILE, GRAPH_FILE, PLAN_FILE
from orchestrator.core.contract import CERTIFICATE_FILE, METADATA_FILE, ModelCard
from orchestrator.errors import CertificateFailedError, TrireelError
from orchestrator.settings import TritonSettings

Say = Callable[[str], None]

LABELS_FILE: Final = "labels.txt"
# Said by versions that only a scratch repository has seen.
UNCERTIFIED: Final = "none"
TOOLS: Final = ("ultralytics", "torch", "onnx", "onnxruntime", "onnxslim", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A version before it is published. graph: the served one, made of `source` as `spec` asks for."""

    spec: ExportSpec
    source: SourceNetwork
    graph: onnx.ModelProto


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedVersion:
    """is_loaded: whether the running Tritons that were named serve it already."""

    name: str
    version: int
    folder: Path
    card: ModelCard
    certificate: Certificate
    is_loaded: bool


async def publish(spec: ExportSpec, triton: TritonSettings, say: Say) -> PublishedVersion:
    """Export, certify and publish. triton: where the embedded Triton is installed, and the server to tell, if any.

    Raises ExportError, CertificateFailedError, TritonStartError; then nothing is published and nothing left behind.
    """
    say(f"reading {spec.weights}")
    source = load_source(spec.weights, spec.imgsz)
    say(f"{source.kind}, {len(source.class_names)} classes, {source.imgsz} px; tracing")
    return await publish_draft(build_draft(source, spec), triton, say)


def build_draft(source: SourceNetwork, spec: ExportSpec) -> Draft:
    raw = export_raw(source, spec.precision)
    graph = join_to_contract(raw, head=source.head, class_count=len(source.class_names), floor=spec.floor, iou=spec.iou)
    return Draft(spec=spec, source=source, graph=graph)


async def publish_draft(draft: Draft, triton: TritonSettings, say: Say) -> PublishedVersion:
    """Certify a draft's graph against its source network and publish it. Raises as `publish`."""
    spec = draft.spec
    with TemporaryDirectory(prefix="trireel-export-") as name:
        scratch = Path(name)
        built = scratch / "models" / spec.name / "1"
        card = write_version(built, draft)
        write_configs(built.parent, {1: card})
        certificate = await certify_draft(draft, triton, scratch, say)
        say(f"certificate {certificate.verdict} ({spec.precision}): {certificate.reason}")
        if certificate.verdict is Verdict.FAILED:
            raise CertificateFailedError(f"{spec.name} was not published: {certificate.reason}")
        card = dataclasses.replace(card, certificate=certificate.verdict.value)
        write_findings(built, draft, card, certificate)
        has_plan = _build_plan(built, card, say)
        with locked(spec.repository):
            version = add_version(spec.model_folder, built, card)
    folder = spec.model_folder / str(version)
    say(f"published {spec.name}:{version} in {folder}")
    if not has_plan:
        say(f"no TensorRT plan was built, as there is no tensorrt here; on the GPU: {trtexec_command(card, folder)}")
    return PublishedVersion(
        name=spec.name,
        version=version,
        folder=folder,
        card=card,
        certificate=certificate,
        is_loaded=await _tell_tritons(triton.urls, spec.name, say),
    )


def write_version(folder: Path, draft: Draft) -> ModelCard:
    """Write what Triton needs of a version into a new folder; returns its description, not yet certified."""
    spec, source = draft.spec, draft.source
    folder.mkdir(parents=True)
    content = draft.graph.SerializeToString(deterministic=True)
    (folder / GRAPH_FILE).write_bytes(content)
    (folder / LABELS_FILE).write_text("".join(f"{name}\n" for name in source.class_names))
    shutil.copyfile(Path(__file__).with_name("embedded_model.py"), folder / EMBEDDED_FILE)
    return ModelCard(
        class_names=source.class_names,
        stride=source.stride,
        imgsz=source.imgsz,
        floor=spec.floor,
        iou=spec.iou,
        precision=spec.precision.value,
        digest=hashlib.sha256(content).hexdigest(),
        weights_sha256=source.weights_sha256,
        certificate=UNCERTIFIED,
    )


async def certify_draft(draft: Draft, triton: TritonSettings, scratch: Path, say: Say) -> Certificate:
    """Certify a draft that was written to `scratch / "models"`."""
    spec, source = draft.spec, draft.source
    pictures = load_pictures(spec.frames or PICTURES)
    evidence = gather_evidence(pictures, imgsz=source.imgsz, stride=source.stride)
    say(f"running the source network on {sum(len(item.frames) for item in evidence)} frames")
    answers = await asyncio.to_thread(_answers, draft, evidence)
    say("starting a Triton of its own for the version")
    async with open_scratch_triton(triton, scratch / "models", spec.name, log_dir=scratch / "logs") as infer:
        return await certify(
            draft.graph,
            evidence,
            answers,
            infer,
            limits=LIMITS[spec.precision],
            suppression_iou=spec.iou if source.head is Head.ONE_TO_MANY else None,
            made_with=made_with(),
        )


def _answers(draft: Draft, evidence: list[Evidence]) -> list[SourceAnswer]:
    spec, source = draft.spec, draft.source
    return [answer_of_source(source, item.frames, floor=spec.floor, iou=spec.iou) for item in evidence]


def made_with() -> dict[str, str]:
    """The versions of the tools and when they were used."""
    tools = {name: installed_version(name) for name in TOOLS}
    return {**tools, "python": platform.python_version(), "at": datetime.now(UTC).isoformat(timespec="seconds")}


def write_findings(folder: Path, draft: Draft, card: ModelCard, certificate: Certificate) -> None:
    """Write the certificate and the metadata into a version folder."""
    spec, source = draft.spec, draft.source
    metadata = {
        "card": json.loads(card.to_json()),
        "source": {
            "weights": spec.weights.name,
            "network": source.kind,
            "head": source.head.value,
            "is_suppressed": source.head is Head.ONE_TO_MANY,
        },
        "made_with": dict(certificate.made_with),
    }
    for name, document in ((CERTIFICATE_FILE, certificate.to_document()), (METADATA_FILE, metadata)):
        (folder / name).write_text(json.dumps(document, indent=2) + "\n")


def _build_plan(folder: Path, card: ModelCard, say: Say) -> bool:
    if not has_tensorrt():
        return False
    say("building the TensorRT plan; this takes minutes")
    build_plan(folder / GRAPH_FILE, folder / PLAN_FILE, card)
    say("built the TensorRT plan for this machine's GPU; the certificate does not cover it")
    return True


async def _tell_tritons(urls: Sequence[str], name: str, say: Say) -> bool:
    """Have running Tritons load the version; one that does not is no reason to take the version back."""
    if not urls:
        say(f"a server that runs already takes it after POST /v1/models/{name}/load, or at its next start")
    told = [await _tell_triton(url, name, say) for url in urls]
    return bool(told) and all(told)


async def _tell_triton(url: str, name: str, say: Say) -> bool:
    try:
        await load_version(url, name)
    except TrireelError as exc:
        say(f"the Triton at {url} did not load it: {exc}; does it serve this repository?")
        return False
    say(f"the Triton at {url} serves it")
    return True
