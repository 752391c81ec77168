"""The JSON Schema of an event, from the Struct that parses it."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
from msgspec import Struct


def json_schema(variant: type[Struct]) -> dict[str, Any]:
    """The JSON Schema of one form of an event (one of `events.VARIANTS`).

    `title` and `description` are the first line and the rest of the Struct's docstring. `properties` has the required
    fields first, each with a description and, where it is required, examples. A form that takes unknown fields has no
    `additionalProperties`; for the others it is false.
    """
    (reference,), components = msgspec.json.schema_components([variant])
    schema: dict[str, Any] = components[reference["$ref"].rpartition("/")[2]]
    title, _, description = (inspect.getdoc(variant) or "").partition("\n\n")
    schema["title"] = title.removesuffix(".")
    schema.pop("description", None)
    if description:
        schema["description"] = description
    properties = schema["properties"]
    schema["properties"] = {name: properties[name] for name in dict.fromkeys([*schema["required"], *properties])}
    return schema
