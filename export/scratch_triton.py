"""A Triton of its own for a version that is not published yet."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from export.certificate import Infer
from orchestrator.core.letterbox import fit_letterbox
from orchestrator.core.types import FrameBatch, FrameStamp, ServedModel
from orchestrator.inference.catalogue import TritonCatalogue
from orchestrator.inference.connection import open_connection, triton_errors
from orchestrator.inference.embedded import open_embedded_triton
from orchestrator.inference.wire import build_request, candidates_from
from orchestrator.settings import TritonSettings
from orchestrator.telemetry import Metrics

# A batch of the largest frames on a slow machine; nobody waits for it but the one who exports.
REQUEST_TIMEOUT_S: Final = 300.0


@asynccontextmanager
async def open_scratch_triton(
    settings: TritonSettings, repository: Path, name: str, *, log_dir: Path
) -> AsyncIterator[Infer]:
    """Serve the one model in `repository` and yield the way to ask it; frames travel over gRPC.

    Raises TritonStartError; ModelNotReadyError with Triton's reason if the version does not load.
    """
    metrics = Metrics(CollectorRegistry())
    async with (
        open_embedded_triton(settings, log_dir=log_dir, metrics=metrics, repository=repository) as triton,
        open_connection(triton.grpc_url) as connection,
    ):
        catalogue = TritonCatalogue(connection, timeout_s=REQUEST_TIMEOUT_S, now=time.monotonic)
        model = await catalogue.find(name)

        async def infer(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
            batch = as_batch(frames, model)
            with triton_errors(str(model.version)):
                answer = await connection.infer(
                    lambda: build_request(model.version, batch, region=None, offset=0), timeout_s=REQUEST_TIMEOUT_S
                )
            return candidates_from(answer, frames=len(frames), model=model)

        yield infer


def as_batch(frames: NDArray[np.uint8], model: ServedModel) -> FrameBatch:
    """Frames (N, H, W, 3), letterboxed already, as a batch in no slot."""
    count, height, width = frames.shape[:3]
    return FrameBatch(
        slot=0,
        pixels=frames,
        stamps=tuple(FrameStamp(index=number, pts_ms=0.0) for number in range(count)),
        letterbox=fit_letterbox(width, height, imgsz=model.card.imgsz, stride=model.card.stride),
    )


async def load_version(url: str, name: str) -> None:
    """Have the Triton at `url` read a model's configuration again. Raises InferenceError."""
    async with open_connection(url) as connection:
        await TritonCatalogue(connection, timeout_s=REQUEST_TIMEOUT_S, now=time.monotonic).load(name)
