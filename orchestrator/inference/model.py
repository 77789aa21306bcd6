"""Inference of a batch: one request to a Triton, asked again elsewhere or later while Triton is away or busy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.types import FrameBatch, ServedModel
from orchestrator.errors import TrireelError
from orchestrator.inference.endpoint import Endpoint
from orchestrator.inference.retrying import Retrying
from orchestrator.inference.suspects import Suspects
from orchestrator.inference.tour import Tour
from orchestrator.telemetry import Metrics


class TritonModel:
    """The port `Model`, over one or more servers."""

    def __init__(self, endpoints: Sequence[Endpoint], *, metrics: Metrics, retrying: Retrying) -> None:
        self._endpoints = endpoints
        self._metrics = metrics
        self._retrying = retrying
        self._suspects = Suspects(now=time.monotonic)

    async def infer(self, model: ServedModel, batch: FrameBatch) -> NDArray[np.float32]:
        """Candidates (N, 300, 6) of a batch; read-only. The slot may be given back when this ends, however it ends.

        Raises ContractError, ModelChangedError, SharedMemoryRefusedError, BatchBreaksTritonError and other
        InferenceErrors at once; after its retries TritonUnavailableError, TritonTimeoutError or ModelNotReadyError.
        """
        tour = Tour(self._endpoints, model, batch, suspects=self._suspects)
        with self._measured(model.version.name, len(batch.stamps)):
            return await self._retrying.run(
                tour.attempt, on_retry=self._count_retry, is_another_left=tour.is_another_left
            )

    def _count_retry(self, exc: TrireelError) -> None:
        self._metrics.inference_retries.labels(exc.code).inc()

    @contextmanager
    def _measured(self, name: str, frames: int) -> Iterator[None]:
        """Count the frames as in flight inside; as inferred, with the time it took, when it ends well."""
        began = time.monotonic()
        self._metrics.frames_in_flight.inc(frames)
        try:
            yield
        finally:
            self._metrics.frames_in_flight.dec(frames)
        self._metrics.inference_seconds.labels(name).observe(time.monotonic() - began)
        self._metrics.batch_frames.labels(name).observe(frames)
        self._metrics.frames_inferred.labels(name).inc(frames)
