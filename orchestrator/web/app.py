"""The one composition of the web application."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request

from orchestrator.bootstrap import Services
from orchestrator.web.error_map import EXCEPTION_HANDLERS, log_socket_error
from orchestrator.web.event_routes import EventRoutes
from orchestrator.web.injected import providers_of
from orchestrator.web.job_routes import JobRoutes
from orchestrator.web.job_socket import follow_job_socket
from orchestrator.web.model_routes import ModelRoutes
from orchestrator.web.observing import Observed, bind_ids
from orchestrator.web.openapi import build_openapi_config
from orchestrator.web.operation_routes import MAX_BODY_BYTES, get_health, get_limits, get_metrics, get_readiness
from orchestrator.web.query_check import QueryCheck
from orchestrator.web.result_routes import ResultRoutes
from orchestrator.web.struct_schemas import StructSchemas
from orchestrator.web.video_routes import video_routes


def build_app(services: Services) -> Litestar:
    """The API over `services`, which stay open as long as it serves; the caller opens and closes them."""
    query_check = QueryCheck()

    async def before_request(request: Request[Any, Any, Any]) -> None:
        bind_ids(request)
        query_check.refuse_unknown(request)

    app = Litestar(
        route_handlers=[
            video_routes(services.settings.http.max_upload_bytes),
            JobRoutes,
            ResultRoutes,
            EventRoutes,
            follow_job_socket,
            ModelRoutes,
            get_limits,
            get_health,
            get_readiness,
            get_metrics,
        ],
        dependencies=providers_of(services),
        exception_handlers=EXCEPTION_HANDLERS,
        after_exception=[log_socket_error],
        before_request=before_request,
        on_startup=[query_check.read],
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=build_openapi_config(),
        plugins=[StructSchemas()],
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    app.asgi_handler = Observed(app.asgi_handler, services.metrics)
    return app
