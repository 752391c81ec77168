"""The client's events are those of the published schema: nothing is said twice and differs."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Final
from uuid import UUID

import httpx
import pytest

from tocsin_client import ChatMessage, TextMessage
from tocsin_client.events import EVENTS, Event
from tocsin_client.testing import LocalTocsin

_ID: Final = {"type": "string", "format": "uuid"}
_TYPES: Final[dict[Any, dict[str, str]]] = {
    UUID | str: _ID,
    UUID | str | None: _ID,
    str: {"type": "string"},
    int: {"type": "integer"},
}


@pytest.fixture(scope="session")
def published(tocsin_server: LocalTocsin) -> list[dict[str, Any]]:
    """The forms of an event in the OpenAPI document that a running server publishes."""
    document = httpx.get(f"{tocsin_server.url}/schema/openapi.json").json()
    body = document["paths"]["/api/events"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return list(body["anyOf"])


def form_of(event: type[Event], published: list[dict[str, Any]]) -> dict[str, Any]:
    found = [form for form in published if form["properties"]["message"]["enum"] == [event.message]]
    if event in (TextMessage, ChatMessage):
        found = [form for form in found if ("text" in form["properties"]) == (event is TextMessage)]
    (form,) = found
    return form


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_a_class_has_the_fields_of_its_event_and_their_types(
    event: type[Event], published: list[dict[str, Any]]
) -> None:
    form = form_of(event, published)
    hints = typing.get_type_hints(event)
    names = {field.name for field in dataclasses.fields(event)} - {"own"}
    assert names | {"message"} == set(form["properties"])
    assert names - {"event_id"} == set(form["required"]) - {"message"}
    for name in names:
        stated = {key: form["properties"][name].get(key) for key in _TYPES[hints[name]]}
        stated["type"] = stated["type"] or "string"
        assert stated == _TYPES[hints[name]], name


def test_every_event_that_is_published_has_its_class(published: list[dict[str, Any]]) -> None:
    forms = [form_of(event, published) for event in EVENTS]
    assert all(form in forms for form in published)
    assert len(forms) == len(published)


def test_only_a_chat_message_of_another_type_takes_fields_of_its_own(published: list[dict[str, Any]]) -> None:
    for event in EVENTS:
        takes_more = form_of(event, published).get("additionalProperties") is not False
        assert takes_more == (event is ChatMessage)
