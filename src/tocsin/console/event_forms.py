"""The forms of *Send*, made from the API's own description of its events: what it takes is said in one place."""

from __future__ import annotations

import time
from typing import Any, Final

from litestar.datastructures import FormMultiDict
from msgspec import Struct

from tocsin.console.admin_api import AdminApi, ApiError
from tocsin.console.site import text_of

_LEFT_OUT: Final = ("message", "event_id")


class Field(Struct, frozen=True):
    """One field of an event."""

    name: str
    label: str
    kind: str
    """`uuid`, `integer`, `text`, or `fixed` where only one value is possible."""
    required: bool
    example: str


class EventForm(Struct, frozen=True):
    """One kind of event."""

    message: str
    title: str
    fields: tuple[Field, ...]

    def read(self, form: FormMultiDict) -> dict[str, Any]:
        """The event that was typed in. Whether it is one, the API says."""
        event: dict[str, Any] = {"message": self.message}
        for field in self.fields:
            text = text_of(form, field.name)
            if text or field.required:
                event[field.name] = _integer(text) if field.kind == "integer" else text
        return event


async def event_forms(api: AdminApi) -> dict[str, EventForm]:
    """The forms by the name of their event.

    Raises:
        ApiError: the API cannot be asked, or does not describe its events.
    """
    document = await api.call("GET", "/schema/openapi.json", dict[str, Any])
    try:
        content = document["paths"]["/api/events"]["post"]["requestBody"]["content"]["application/json"]
        forms: dict[str, EventForm] = {}
        for variant in _variants(content["schema"]):
            form = _form(variant)
            # A chat message has a second form, for types with fields of their own: `tocsin send` has it.
            forms.setdefault(form.message, form)
        return forms
    except (KeyError, TypeError, IndexError):
        raise ApiError(
            502, "", "The API does not describe its events; are console and server of one version?"
        ) from None


def _variants(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = [one for key in ("anyOf", "oneOf") for one in schema.get(key, [])]
    objects = [one for one in found if "message" in one.get("properties", {})]
    return objects or [nested for one in found for nested in _variants(one)]


def _form(variant: dict[str, Any]) -> EventForm:
    properties = variant["properties"]
    message = properties["message"].get("const") or properties["message"]["enum"][0]
    required = set(variant.get("required", ()))
    fields = tuple(_field(name, one, name in required) for name, one in properties.items() if name not in _LEFT_OUT)
    return EventForm(message, variant.get("title", message), fields)


def _field(name: str, schema: dict[str, Any], required: bool) -> Field:
    allowed = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    example = str(next(iter(schema.get("examples") or allowed), ""))
    if name == "time":
        example = str(int(time.time()))
    kind = "text"
    if len(allowed) == 1:
        kind = "fixed"
    elif schema.get("type") == "integer":
        kind = "integer"
    elif schema.get("format") == "uuid":
        kind = "uuid"
    return Field(name, schema.get("description", name), kind, required, example)


def _integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
