"""The model versions that one Triton serves, read from its repository index and model configurations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2

from orchestrator.core.contract import ModelCard, parameter_name
from orchestrator.core.types import ModelVersion, ServedModel
from orchestrator.errors import ContractError, InferenceError, ModelNotFoundError, ModelNotReadyError
from orchestrator.inference.connection import TritonConnection, triton_errors
from orchestrator.ports import ModelStatus

READY: Final = "READY"
# Versions published to a running Triton by others show after so long; asking costs two small calls.
FRESH_FOR_S: Final = 5.0
LOAD_TIMEOUT_S: Final = 600.0


class TritonCatalogue:
    """What one Triton answered is kept for a few seconds, and until it reconnects.

    known: what it answered last, perhaps in another life.
    """

    def __init__(self, connection: TritonConnection, *, timeout_s: float, now: Callable[[], float]) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._now = now
        self.known: Sequence[ModelStatus] = ()
        self._known_in_epoch: int | None = None
        self._fresh_until = 0.0
        self._lock = asyncio.Lock()

    async def find(self, name: str, version: int | None = None) -> ServedModel:
        """The version, or the newest ready one.

        Raises ModelNotFoundError, ModelNotReadyError, TritonUnavailableError.
        """
        try:
            return choose(await self.current(), name, version)
        except (ModelNotFoundError, ModelNotReadyError):
            return choose(await self.list(), name, version)

    async def list(self) -> Sequence[ModelStatus]:
        """Ask Triton for every version it knows of, by name and version. Raises TritonUnavailableError."""
        async with self._lock:
            return await self._refresh()

    async def verify(self, model: ServedModel) -> None:
        """Raises ModelChangedError if the version is another network by now, ModelNotReadyError if it is not served.

        Mostly answered from what is known, so it may be asked for every batch; never after a reconnect.
        """
        found = await self.find(model.version.name, model.version.version)
        found.require_digest(model.version.digest)

    async def load(self, name: str) -> None:
        """Have Triton read a model's configuration again, with new and changed versions.

        Raises ModelNotFoundError, ModelNotReadyError when it cannot be loaded (what was served before still is),
        TritonUnavailableError.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        try:
            with triton_errors(f"loading {name}"):
                await self._connection.call("RepositoryModelLoad", lambda: request, timeout_s=LOAD_TIMEOUT_S)
        except InferenceError as exc:
            if exc.retryable:
                raise
            if any(status.name == name for status in await self.list()):
                raise ModelNotReadyError(str(exc)) from exc
            raise ModelNotFoundError(
                f"there is no model {name:.80} in Triton's repository; publish it with `make model`"
            ) from exc
        await self.list()

    async def current(self) -> Sequence[ModelStatus]:
        """As `list`, from memory while that is fresh, or while Triton is away."""
        async with self._lock:
            is_current = self._known_in_epoch == self._connection.epoch
            if is_current and (self._now() < self._fresh_until or not self._connection.is_connected):
                return self.known
            return await self._refresh()

    def doubt(self) -> None:
        """Ask again the next time: two small calls tell sooner than frames whether Triton answers at all."""
        self._fresh_until = 0.0

    async def _refresh(self) -> Sequence[ModelStatus]:
        epoch = self._connection.epoch
        with triton_errors("listing models"):
            index = await self._connection.call(
                "RepositoryIndex", service_pb2.RepositoryIndexRequest, timeout_s=self._timeout_s
            )
            configs = {name: await self._config(name) for name in ready_names(index)}
        self.known = statuses_from(index, configs)
        self._known_in_epoch = epoch
        self._fresh_until = self._now() + FRESH_FOR_S
        return self.known

    async def _config(self, name: str) -> Any | None:
        """The model's configuration, None if it was unloaded just now."""
        request = service_pb2.ModelConfigRequest(name=name)
        try:
            answer = await self._connection.call("ModelConfig", lambda: request, timeout_s=self._timeout_s)
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return answer.config


def choose(statuses: Iterable[ModelStatus], name: str, version: int | None) -> ServedModel:
    """The version of that name, or the newest ready one. Raises ModelNotFoundError, ModelNotReadyError."""
    of_name = [status for status in statuses if status.name == name and version in (None, status.version)]
    if not of_name:
        wanted = name if version is None else f"{name}:{version}"
        raise ModelNotFoundError(f"there is no model {wanted:.80}; GET /v1/models lists those there are")
    newest_first = sorted(of_name, key=lambda status: status.version, reverse=True)
    for status in newest_first:
        if status.model is not None:
            return status.model
    worst = newest_first[0]
    raise ModelNotReadyError(
        f"{name}:{worst.version} is not ready: {worst.reason}; GET /v1/models/{name} tells when it is"
    )


def ready_names(index: Any) -> set[str]:
    """Names with a ready version in a RepositoryIndexResponse."""
    return {entry.name for entry in index.models if entry.state == READY}


def statuses_from(index: Any, configs: dict[str, Any | None]) -> Sequence[ModelStatus]:
    """Statuses from a RepositoryIndexResponse and the ModelConfigs of its ready models, by name and version.

    A model whose configuration Triton cannot read has no version there; it counts as version 0.
    """
    statuses = [_status_from(entry, configs.get(entry.name)) for entry in index.models]
    return sorted(statuses, key=lambda status: (status.name, status.version))


def _status_from(entry: Any, config: Any | None) -> ModelStatus:
    version = int(entry.version or 0)
    if entry.state != READY or config is None:
        reason = entry.reason.partition("\n")[0] or (entry.state or "it is not loaded").lower()
        return ModelStatus(name=entry.name, version=version, is_ready=False, reason=reason, model=None)
    try:
        model = served_model(entry.name, version, config)
    except ContractError as exc:
        return ModelStatus(name=entry.name, version=version, is_ready=False, reason=str(exc), model=None)
    return ModelStatus(name=entry.name, version=version, is_ready=True, reason="", model=model)


def served_model(name: str, version: int, config: Any) -> ServedModel:
    """What a ModelConfig says of one version. Raises ContractError."""
    parameter = parameter_name(version)
    if parameter not in config.parameters:
        raise ContractError(f"its configuration has no parameter {parameter}; publish it with `make model`")
    card = ModelCard.from_json(config.parameters[parameter].string_value)
    if config.max_batch_size < 1:
        raise ContractError(f"its max_batch_size is {config.max_batch_size}, but batches need at least 1")
    return ServedModel(
        version=ModelVersion(name=name, version=version, digest=card.digest),
        card=card,
        max_batch=config.max_batch_size,
        instances=sum(group.count * max(1, len(group.gpus)) for group in config.instance_group) or 1,
    )
