"""The model versions of several Tritons as one catalogue."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.types import ServedModel
from orchestrator.errors import (
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    TrireelError,
    TritonUnavailableError,
)
from orchestrator.inference.catalogue import choose
from orchestrator.inference.endpoint import Endpoint
from orchestrator.ports import ModelStatus


@dataclass(frozen=True, slots=True)
class Told:
    """What one server serves, in its own words. error: why it did not answer; statuses are of its last answer then."""

    url: str
    statuses: Sequence[ModelStatus]
    error: InferenceError | None = None


class MergedCatalogue:
    """The port `ModelCatalogue`. A version is ready if one server serves it and no two serve different networks."""

    def __init__(self, endpoints: Sequence[Endpoint], *, now: Callable[[], float] = time.monotonic) -> None:
        self._endpoints = endpoints
        self._now = now

    async def find(self, name: str, version: int | None = None) -> ServedModel:
        """The version, or the newest ready one.

        Raises ModelNotFoundError, ModelNotReadyError, TritonUnavailableError.
        """
        try:
            return choose(merge(require_answer(await self._current())), name, version)
        except (ModelNotFoundError, ModelNotReadyError):
            told = require_answer(await self.ask_all())
        try:
            return choose(merge(told), name, version)
        except ModelNotFoundError as exc:
            if silent := [each.url for each in told if each.error is not None]:
                raise TritonUnavailableError(f"{exc}; {', '.join(silent)} did not answer") from exc
            raise

    async def list(self) -> Sequence[ModelStatus]:
        """Ask every server for every version it knows of, by name and version.

        Raises TritonUnavailableError where none answers.
        """
        return merge(require_answer(await self.ask_all()))

    async def load(self, name: str) -> None:
        """Have every server read a model's configuration again, with new and changed versions.

        Raises ModelNotFoundError, ModelNotReadyError when it cannot be loaded (what was served before still is),
        TritonUnavailableError. Servers that the error does not name have loaded it.
        """
        async with asyncio.TaskGroup() as group:
            loads = [(endpoint.url, group.create_task(_load(endpoint, name))) for endpoint in self._endpoints]
        if failed := {url: error for url, load in loads if (error := load.result()) is not None}:
            raise joined(failed, of=len(loads))

    async def ask_all(self) -> Sequence[Told]:
        """What every server says now, within a few seconds."""
        async with asyncio.TaskGroup() as group:
            told = [group.create_task(self._told(each, each.catalogue.list)) for each in self._endpoints]
        return [each.result() for each in told]

    async def _current(self) -> Sequence[Told]:
        """As `ask_all`, from memory where that is fresh, or where asking would be waiting in vain."""
        now_s = self._now()
        answering = [each for each in self._endpoints if each.is_connected and not each.load.is_resting(now_s)]
        asked = answering or self._endpoints
        async with asyncio.TaskGroup() as group:
            told = [group.create_task(self._told(each, each.catalogue.current)) for each in asked]
        remembered = [Told(each.url, each.catalogue.known) for each in self._endpoints if each not in asked]
        return [*(each.result() for each in told), *remembered]

    async def _told(self, endpoint: Endpoint, ask: Callable[[], Awaitable[Sequence[ModelStatus]]]) -> Told:
        try:
            return Told(endpoint.url, await ask())
        except InferenceError as exc:
            if endpoint.is_connected:
                endpoint.load.note_failure(self._now())
            return Told(endpoint.url, endpoint.catalogue.known, exc)


async def _load(endpoint: Endpoint, name: str) -> TrireelError | None:
    try:
        await endpoint.catalogue.load(name)
    except (InferenceError, ModelNotFoundError, ModelNotReadyError) as exc:
        return exc
    return None


def merge(told: Sequence[Told]) -> Sequence[ModelStatus]:
    """What several servers serve as one, by name and version. What one alone says stays as it is."""
    if len(told) == 1:
        return told[0].statuses
    by_version: dict[tuple[str, int], list[tuple[Told, ModelStatus]]] = defaultdict(list)
    for each in told:
        for status in each.statuses:
            by_version[status.name, status.version].append((each, status))
    return [_merged(by_version[key]) for key in sorted(by_version)]


def _merged(entries: Sequence[tuple[Told, ModelStatus]]) -> ModelStatus:
    """One version. Servers that are away count for what they served last, so that a run never gets two networks."""
    status = entries[0][1]
    urls_by_digest: dict[str, list[str]] = defaultdict(list)
    for each, said in entries:
        if said.model is not None:
            urls_by_digest[said.model.version.digest].append(each.url)
    serving = [said.model for each, said in entries if said.model is not None and each.error is None]
    if len(urls_by_digest) > 1:
        networks = "; ".join(f"{', '.join(urls)}: {digest:.12}" for digest, urls in sorted(urls_by_digest.items()))
        reason = f"servers have different networks under this version ({networks}); publish one as a new version"
    elif serving:
        model = replace(
            serving[0],
            max_batch=min(model.max_batch for model in serving),
            instances=sum(model.instances for model in serving),
        )
        return replace(status, is_ready=True, reason="", model=model)
    else:
        reason = "; ".join(f"{each.url}: {said.reason or 'it does not answer'}" for each, said in entries)
    return replace(status, is_ready=False, reason=reason, model=None)


def require_answer(told: Sequence[Told]) -> Sequence[Told]:
    """Raises the servers' error if none of them answered."""
    errors = {each.url: each.error for each in told if each.error is not None}
    if len(errors) == len(told):
        raise joined(errors, of=len(told))
    return told


def joined(errors: Mapping[str, TrireelError], *, of: int) -> TrireelError:
    """One error for those of some servers, by URL, out of `of`; one that may pass by itself decides its kind."""
    first, *_ = errors.values()
    if of == 1:
        return first
    text = "; ".join(f"{url}: {error}" for url, error in errors.items())
    passing = next((error for error in errors.values() if error.retryable), None)
    if passing is None and len(errors) < of:
        return ModelNotReadyError(text)
    return type(passing or first)(text)
