"""One batch's way around the servers: each is asked once, the least loaded first, then all of them again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from orchestrator.core.types import FrameBatch, ServedModel
from orchestrator.errors import (
    BatchBreaksTritonError,
    InferenceError,
    ModelChangedError,
    ModelNotFoundError,
    ModelNotReadyError,
    SharedMemoryRefusedError,
    TrireelError,
    TritonBrokeError,
    TritonUnavailableError,
)
from orchestrator.inference.endpoint import Endpoint, is_servers_fault
from orchestrator.inference.suspects import Suspects

log = structlog.get_logger(__name__)

# A server that says so is passed over, as another one may serve the version. The later, the more it says to a person.
PASSED_OVER: Final = (ModelNotFoundError, SharedMemoryRefusedError, ModelChangedError, ModelNotReadyError)
# A batch that broke a server so often is tried with nothing beside it, since every batch there was hit by the break.
BREAKS_UNTIL_ALONE: Final = 2
MOST_BREAKS: Final = 3


class Tour:
    """suspects: shared by all batches. lot: decides between servers that are as loaded."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        model: ServedModel,
        batch: FrameBatch,
        *,
        suspects: Suspects,
        now: Callable[[], float] = time.monotonic,
        lot: Callable[[], float] = random.random,
    ) -> None:
        self._endpoints = endpoints
        self._model = model
        self._batch = batch
        self._suspects = suspects
        self._now = now
        self._lot = lot
        self._untried: list[Endpoint] = []
        self._failure: TrireelError | None = None
        self._was_doubted = False

    def is_another_left(self) -> bool:
        """Whether the next attempt goes to a server that was not asked in this round."""
        return any(endpoint.is_connected for endpoint in self._untried)

    async def attempt(self) -> NDArray[np.float32]:
        """The batch's candidates from the next server that serves the version. Raises as `Endpoint.infer`."""
        if not self.is_another_left():
            self._untried, self._failure = list(self._endpoints), None
        refusals: list[TrireelError] = []
        while (endpoint := self._take_next()) is not None:
            try:
                return await self._ask(endpoint)
            except PASSED_OVER as exc:
                refusals.append(exc)
            except InferenceError as exc:
                self._failure = exc
                raise
        raise self._why_nobody(refusals)

    def _take_next(self) -> Endpoint | None:
        now_s = self._now()
        connected = [endpoint for endpoint in self._untried if endpoint.is_connected]
        if not connected:
            return None
        chosen = min(connected, key=lambda endpoint: (*endpoint.rank(now_s), self._lot()))
        self._untried.remove(chosen)
        return chosen

    async def _ask(self, endpoint: Endpoint) -> NDArray[np.float32]:
        version, batch = self._model.version, self._batch
        is_alone = self._suspects.breaks_under(version, batch) >= BREAKS_UNTIL_ALONE
        with endpoint.load.carrying(len(batch.stamps)):
            try:
                async with endpoint.door.enter(alone=is_alone):
                    candidates = await endpoint.infer(self._model, batch)
            except TritonBrokeError as exc:
                self._note_failure(endpoint, exc)
                breaks = self._suspects.blame(version, batch, event=exc.life)
                if is_alone and breaks >= MOST_BREAKS:
                    self._suspects.clear(version, batch)
                    raise self._verdict(breaks) from exc
                raise
            except InferenceError as exc:
                self._note_failure(endpoint, exc)
                if self._may_be_machines_fault(exc):
                    self._was_doubted = True
                    raise TritonUnavailableError(f"{exc} (at {endpoint.url})") from exc
                raise
        if endpoint.load.note_answer():
            log.info("triton answers again", url=endpoint.url)
        self._suspects.clear(version, batch)
        return candidates

    def _note_failure(self, endpoint: Endpoint, exc: InferenceError) -> None:
        if (exc.retryable or is_servers_fault(exc)) and endpoint.load.note_failure(self._now()):
            log.warning("triton fails", url=endpoint.url, code=exc.code, message=str(exc))

    def _may_be_machines_fault(self, exc: InferenceError) -> bool:
        """Whether to hear one more server, where there is one: what two of them say is believed."""
        return is_servers_fault(exc) and not exc.retryable and not self._was_doubted and self.is_another_left()

    def _verdict(self, breaks: int) -> BatchBreaksTritonError:
        stamps = self._batch.stamps
        return BatchBreaksTritonError(
            f"{self._model.version}: Triton broke {breaks} times in a row under frames {stamps[0].index} to "
            f"{stamps[-1].index}, the last time with nothing else to do; its log says why"
        )

    def _why_nobody(self, refusals: Iterable[TrireelError]) -> TrireelError:
        """Final only when every server has said so: one that is away, or failed, may well serve the version."""
        if self._failure is not None:
            return self._failure
        most_telling = max(refusals, key=lambda exc: PASSED_OVER.index(type(exc)), default=None)
        if most_telling is not None and (most_telling.retryable or not self._untried):
            return most_telling
        away = ", ".join(endpoint.url for endpoint in self._untried)
        others = f", and elsewhere {most_telling}" if most_telling else ""
        return TritonUnavailableError(f"{self._model.version}: Triton at {away} is away{others}")
