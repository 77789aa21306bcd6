"""Schemas of structs with what Litestar leaves out of them: their docstrings, and an example of the main ones."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from litestar.openapi.spec import Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition
from msgspec import Struct

from orchestrator.web.examples import EXAMPLES

if TYPE_CHECKING:
    from litestar._openapi.schema_generation import SchemaCreator  # what Litestar's own protocol names


class StructSchemas(OpenAPISchemaPlugin):
    """Lets Litestar's plugin for structs make the schema, and adds to it."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        return not field_definition.is_union and field_definition.is_subclass_of(Struct)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: SchemaCreator) -> Schema:
        others = (plugin for plugin in schema_creator.plugins if plugin is not self)
        maker = next(
            plugin
            for plugin in others
            if isinstance(plugin, OpenAPISchemaPlugin) and plugin.is_plugin_supported_field(field_definition)
        )
        schema = maker.to_openapi_schema(field_definition, schema_creator)
        schema.description = inspect.getdoc(field_definition.type_)
        if (example := EXAMPLES.get(field_definition.type_)) is not None:
            schema.examples = [example]
        return schema
