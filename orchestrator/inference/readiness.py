"""Whether Triton can be worked with, of each server and over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import InferenceError
from orchestrator.inference.endpoint import Endpoint
from orchestrator.inference.merged_catalogue import Told, merge
from orchestrator.ports import ModelStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointReadiness:
    """is_ready: it answers, serves a model and can be sent frames. reasons: whatever is amiss, also while it is ready.

    transport: how frames travel; transport_reason: why over gRPC.
    """

    url: str
    is_ready: bool
    reasons: tuple[str, ...]
    transport: Literal["shm", "grpc"]
    transport_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonReadiness:
    """is_ready: a server is, and serves a model that no other contradicts. reasons: whatever is amiss anywhere.

    transport: "mixed" if it is not the same for all. grpc_url: several are parted by commas. metrics_url: None where
    only Triton's owner knows it. last_error: of the embedded server.
    """

    is_ready: bool
    reasons: tuple[str, ...]
    transport: Literal["shm", "grpc", "mixed"]
    transport_reason: str
    grpc_url: str
    metrics_url: str | None
    last_error: str | None
    endpoints: tuple[EndpointReadiness, ...]


async def endpoint_readiness(endpoint: Endpoint, told: Told, *, state: str) -> EndpointReadiness:
    """state: what is said of a server that does not answer, before its error. Settles how frames travel."""
    reasons = list(_complaints(told, state))
    refusal = await _refusal(endpoint) if told.statuses and told.error is None else None
    if refusal is not None:
        reasons.append(refusal)
    is_serving = told.error is None and any(status.is_ready for status in told.statuses)
    transport_reason = endpoint.registration.reason
    return EndpointReadiness(
        url=endpoint.url,
        is_ready=is_serving and refusal is None,
        reasons=tuple(reasons),
        transport="grpc" if transport_reason else "shm",
        transport_reason=transport_reason,
    )


async def _refusal(endpoint: Endpoint) -> str | None:
    """Why frames cannot travel at all."""
    try:
        await endpoint.registration.name()
    except InferenceError as exc:
        return str(exc)
    return None


def _complaints(told: Told, state: str) -> Iterable[str]:
    if told.error is not None:
        yield f"{state}: {told.error}"
        return
    for status in told.statuses:
        if not status.is_ready:
            yield f"{status.name}:{status.version}: {status.reason}"
    if not told.statuses:
        yield "Triton serves no models; publish one with `make model`"


def over_all(
    endpoints: Sequence[EndpointReadiness],
    told: Sequence[Told],
    *,
    metrics_url: str | None = None,
    last_error: str | None = None,
) -> TritonReadiness:
    """What one server alone says stays as it is; of several, each reason names its server."""
    merged = merge(told)
    transports = {each.transport for each in endpoints if each.is_ready} or {each.transport for each in endpoints}
    return TritonReadiness(
        is_ready=any(each.is_ready for each in endpoints) and any(status.is_ready for status in merged),
        reasons=(*_named(endpoints, lambda each: each.reasons), *_contradictions(merged, told)),
        transport=transports.pop() if len(transports) == 1 else "mixed",
        transport_reason="; ".join(
            _named(endpoints, lambda each: (each.transport_reason,) if each.transport_reason else ())
        ),
        grpc_url=",".join(each.url for each in endpoints),
        metrics_url=metrics_url,
        last_error=last_error,
        endpoints=tuple(endpoints),
    )


def _named(
    endpoints: Sequence[EndpointReadiness], sentences: Callable[[EndpointReadiness], Iterable[str]]
) -> Iterable[str]:
    for each in endpoints:
        for sentence in sentences(each):
            yield f"{each.url}: {sentence}" if len(endpoints) > 1 else sentence


def _contradictions(merged: Sequence[ModelStatus], told: Sequence[Told]) -> Iterable[str]:
    """Of versions that a server calls ready, and that are not, for what another one serves."""
    answers = [each.statuses for each in told if each.error is None]
    ready = {(status.name, status.version) for statuses in answers for status in statuses if status.is_ready}
    for status in merged:
        if not status.is_ready and (status.name, status.version) in ready:
            yield f"{status.name}:{status.version}: {status.reason}"
