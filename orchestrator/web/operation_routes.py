"""What operators and monitors ask: health, readiness, metrics, limits."""

from __future__ import annotations

from typing import Final

from litestar import Response, get
from litestar.openapi import ResponseSpec

from orchestrator.telemetry import EXPOSITION_TYPE
from orchestrator.web.error_map import problems
from orchestrator.web.injected import AllServices
from orchestrator.web.model_schemas import HealthAnswer, LimitsAnswer, ReadinessAnswer
from orchestrator.web.paging import MAX_PAGE_ITEMS

# Of every request that is no upload: a submit is a few hundred bytes.
MAX_BODY_BYTES: Final = 1024 * 1024
TAGS: Final = ("operation",)
NOT_READY: Final = {503: ResponseSpec(ReadinessAnswer, generate_examples=False, description="Not ready, and why.")}


@get("/v1/limits", tags=TAGS, operation_id="getLimits", summary="Limits", responses=problems(400))
async def get_limits(services: AllServices) -> LimitsAnswer:
    """Every limit by name."""
    return LimitsAnswer.from_settings(services.settings, max_page_items=MAX_PAGE_ITEMS, max_body_bytes=MAX_BODY_BYTES)


@get("/healthz", tags=TAGS, operation_id="getHealth", summary="Liveness", responses=problems(400))
async def get_health() -> HealthAnswer:
    """Answers as long as the process does."""
    return HealthAnswer("ok")


@get("/readyz", tags=TAGS, operation_id="getReadiness", summary="Readiness", responses={**problems(400), **NOT_READY})
async def get_readiness(services: AllServices) -> Response[ReadinessAnswer]:
    """200 when jobs can be worked on, 503 with reasons when not; how frames reach Triton, and where its ports are."""
    answer = ReadinessAnswer.from_readiness(await services.readiness())
    return Response(answer, status_code=200 if answer.is_ready else 503)


@get(
    "/metrics",
    tags=TAGS,
    operation_id="getMetrics",
    summary="Metrics",
    media_type=EXPOSITION_TYPE,
    responses=problems(400),
)
async def get_metrics(services: AllServices) -> bytes:
    """Prometheus' text format."""
    await services.refresh_metrics()
    return services.metrics.exposition()
