"""`/v1/models`: what is published, and having Triton load what was published just now."""

from __future__ import annotations

from litestar import Controller, get, post

from orchestrator.bootstrap import Services
from orchestrator.errors import ModelNotFoundError
from orchestrator.web.error_map import problems
from orchestrator.web.injected import AllServices
from orchestrator.web.model_schemas import ModelAnswer, ModelPage, ModelVersionAnswer
from orchestrator.web.path_parameters import ModelId


class ModelRoutes(Controller):
    path = "/v1/models"
    tags = ("models",)

    @get(operation_id="listModels", summary="List models", responses=problems(400, 503))
    async def list_models(self, services: AllServices) -> ModelPage:
        """Every version that Triton knows of, ready or not."""
        return ModelPage.from_statuses(await services.catalogue.list())

    @get("/{name:str}", operation_id="getModel", summary="One model", responses=problems(400, 404, 503))
    async def get_model(self, name: ModelId, services: AllServices) -> ModelAnswer:
        """Its versions, each with the certificate that it agrees with its source network."""
        return await _model_named(name, services)

    @post(
        "/{name:str}/load",
        operation_id="loadModel",
        summary="Load a published model",
        status_code=200,
        responses=problems(400, 404, 502, 503),
    )
    async def load_model(self, name: ModelId, services: AllServices) -> ModelAnswer:
        """Have Triton read the model's folder again: new versions are served afterwards, without a restart."""
        await services.load_model(name)
        return await _model_named(name, services)


async def _model_named(name: str, services: Services) -> ModelAnswer:
    statuses = [status for status in await services.catalogue.list() if status.name == name]
    if not statuses:
        raise ModelNotFoundError(f"there is no model {name!r:.80}; GET /v1/models lists those there are")
    versions = []
    for status in sorted(statuses, key=lambda status: status.version):
        report = await services.certificate(name, status.version)
        versions.append(ModelVersionAnswer.from_status(status, None if report is None else dict(report)))
    return ModelAnswer(name, versions)
