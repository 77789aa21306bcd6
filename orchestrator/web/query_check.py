"""Query parameters that a call does not have are refused: a misspelt threshold must not pass for the default one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from litestar import Litestar, Request
from litestar.exceptions import ValidationException
from litestar.openapi.spec import Parameter, PathItem

METHODS: Final = ("get", "post", "delete")


class QueryCheck:
    """The parameters of every call, read once from the OpenAPI document: at start, or when the first query comes."""

    def __init__(self) -> None:
        self._names_by_call: dict[tuple[str, str], frozenset[str]] = {}

    def read(self, app: Litestar) -> None:
        """Make the document now, which takes a moment: the server does, so that no request waits for it."""
        self._names_by_call = names_by_call(app)

    def refuse_unknown(self, request: Request[Any, Any, Any]) -> None:
        """Raises ValidationException, which names each. Calls that are not in the document are let through."""
        if not request.query_params:
            return
        if not self._names_by_call:
            self.read(request.app)
        known = self._names_by_call.get((request.method, str(request.scope.get("path_template"))))
        if known is not None and (complaints := complaints_about(request.query_params.keys(), known)):
            raise ValidationException(extra=complaints)


def complaints_about(names: Collection[str], known: Collection[str]) -> list[dict[str, str]]:
    """Key and message for each of `names` that is not among `known`."""
    some = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
    unknown = sorted(set(names) - set(known))
    return [{"key": f"{name:.80}", "message": f"this call has no such parameter; {some}"} for name in unknown]


def names_by_call(app: Litestar) -> dict[tuple[str, str], frozenset[str]]:
    """The query parameters by method and path."""
    paths: dict[str, PathItem] = app.openapi_schema.paths or {}
    return {
        (method.upper(), path): frozenset(
            each.name for each in operation.parameters or () if isinstance(each, Parameter) and each.param_in == "query"
        )
        for path, item in paths.items()
        for method in METHODS
        if (operation := getattr(item, method)) is not None
    }
