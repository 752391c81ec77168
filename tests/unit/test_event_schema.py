"""The Structs of the events are the schema: the parser, the OpenAPI document and the command line agree with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jsonschema_rs
import pytest
import typer
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields
from typer.testing import CliRunner

from tocsin.api import schemas
from tocsin.cli import send
from tocsin.domain.event_schema import json_schema
from tocsin.domain.events import (
    MESSAGES,
    VARIANTS,
    ChatMessage,
    EventError,
    FaxNew,
    TextMessage,
    message_of,
    parse_event,
)

GOLDEN = Path(__file__).parents[1] / "golden"
EVENT_ID = "0199f2ab-6d3c-7a51-9c1e-5d0f8a3b2c4d"
OPENAPI = jsonschema_rs.validator_for(schemas.EVENT.to_schema())


class FaxInColour(FaxNew, tag="fax_new", kw_only=True):
    """A new fax has been received, in colour."""

    colour_depth: Annotated[int, Meta(description="Bits of each pixel.", examples=[24])]


def _golden(message: str) -> dict[str, Any]:
    example: dict[str, Any] = json.loads((GOLDEN / f"{message}.apns.json").read_text())
    del example["aps"]
    return example


def _names(variant: type[Struct], *, required: bool = False) -> set[str]:
    return {field.name for field in fields(variant) if not required or field.default is NODEFAULT}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# -- the OpenAPI document ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*VARIANTS, FaxInColour], ids=lambda variant: variant.__name__)
def test_the_openapi_schema_has_exactly_the_fields_of_the_struct(variant: type[Struct]) -> None:
    schema = schemas.event(variant).to_schema()
    assert set(schema["properties"]) == {"message"} | _names(variant)
    assert set(schema["required"]) == {"message"} | _names(variant, required=True)
    assert schema["properties"]["message"]["enum"] == [message_of(variant)]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_every_field_says_what_it_is(variant: type[Struct]) -> None:
    schema = json_schema(variant)
    assert f"{schema['title']}." == (variant.__doc__ or "").splitlines()[0]
    for name in _names(variant):
        assert schema["properties"][name]["description"].endswith("."), name


@pytest.mark.parametrize("message", MESSAGES)
def test_the_examples_of_the_fields_are_those_of_the_document(message: str) -> None:
    (variant,) = (each for each in VARIANTS if message_of(each) == message and each is not ChatMessage)
    schema = json_schema(variant)
    examples = {name: schema["properties"][name]["examples"][0] for name in schema["required"] if name != "message"}
    assert examples | {"message": message} == _golden(message)


TEXT, FAX = _golden("chat_message"), _golden("fax_new")
FILE = {name: value for name, value in TEXT.items() if name != "text"} | {"type": "file"}


@pytest.mark.parametrize(
    ("event", "allowed"),
    [
        *((_golden(message), True) for message in MESSAGES),
        (FAX | {"event_id": EVENT_ID}, True),
        (FAX | {"page_count": 2**53 - 1}, True),
        (FAX | {"page_count": 2**53}, False),
        (FAX | {"page_count": -1}, False),
        (FAX | {"page_count": "2"}, False),
        (FAX | {"page_count": 1.5}, False),
        (FAX | {"colour": "red"}, False),
        (FAX | {"message": "fax_old"}, False),
        (FAX | {"phone": None}, False),
        (FILE, True),
        (FILE | {"name": "a.pdf", "size": [1, {"of": None}]}, True),
        (FILE | {"text": 7}, True),
        (FILE | {"type": ""}, True),
        (FILE | {"type": 7}, False),
        (FILE | {"type": "text"}, False),
        (TEXT | {"name": "a.pdf"}, False),
        (TEXT | {"text": None}, False),
    ],
)
def test_the_openapi_document_allows_what_the_parser_takes(event: Mapping[str, Any], allowed: bool) -> None:
    assert OPENAPI.is_valid(event) is allowed
    if allowed:
        assert parse_event(json.dumps(event).encode()).message == event["message"]
    else:
        with pytest.raises(EventError):
            parse_event(json.dumps(event).encode())


@pytest.mark.parametrize("name", ["from", "message_type", "gcm", "aps", "google.x", "gcm.y"])
def test_the_openapi_document_excludes_names_that_a_provider_reserves(name: str) -> None:
    assert not OPENAPI.is_valid(FILE | {name: 1})


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", MESSAGES)
def test_every_field_of_an_event_is_an_option_of_its_command(message: str) -> None:
    command = typer.main.get_command(send.app).commands[message]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    of_fields = {_option(name) for variant in VARIANTS if message_of(variant) == message for name in _names(variant)}
    own = {"--field"} if message == "chat_message" else set()
    assert options == of_fields | own | {"--config", "--json"}


def test_there_is_a_command_for_every_event_in_their_order() -> None:
    assert tuple(typer.main.get_command(send.app).commands) == MESSAGES  # type: ignore[attr-defined]


def test_an_option_has_the_description_of_its_field_and_is_required_if_the_field_is() -> None:
    app = typer.Typer()
    app.command()(send.event_command(FaxInColour))
    options = {parameter.opts[0]: parameter for parameter in typer.main.get_command(app).params}
    assert (options["--colour-depth"].required, options["--event-id"].required) == (True, False)
    assert options["--colour-depth"].help == "Bits of each pixel."
    assert options["--fax"].metavar == "UUID"


def test_a_field_added_to_a_struct_is_ingested_from_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    ingested: list[dict[str, Any]] = []

    def ingest(event: dict[str, Any], config: Path | None, **more: Any) -> str:
        ingested.append(event)
        return EVENT_ID

    monkeypatch.setattr(send, "ingest", ingest)
    app = typer.Typer()
    app.command()(send.event_command(FaxInColour))
    words = [word for name, value in FAX.items() if name != "message" for word in (_option(name), str(value))]
    ran = CliRunner().invoke(app, [*words, "--colour-depth", "24", "--event-id", EVENT_ID])
    assert ran.exit_code == 0, ran.output
    assert ingested == [FAX | {"colour_depth": 24, "event_id": EVENT_ID}]
    assert CliRunner().invoke(app, [*words, "--colour-depth", "many"]).exit_code == 2


def test_the_example_of_a_command_has_every_required_field() -> None:
    assert send.example(FaxInColour).split()[:3] == ["tocsin", "send", "fax_new"]
    assert {word for word in send.example(FaxInColour).split() if word.startswith("--")} == {
        _option(name) for name in _names(FaxInColour, required=True)
    }
    assert max(map(len, send.example(TextMessage).splitlines())) <= 96


# -- the parser --------------------------------------------------------------------------------------------------------


def test_the_fields_that_another_type_of_chat_message_brings_are_named() -> None:
    parsed = parse_event(json.dumps(FILE | {"event_id": EVENT_ID, "name": "a.pdf", "gcm": {}}).encode())
    assert (parsed.event_id, parsed.own_fields) == (EVENT_ID, ("name", "gcm"))
    assert list(json.loads(parsed.body)) == [*FILE, "name", "gcm"]


@pytest.mark.parametrize("message", MESSAGES)
def test_the_five_events_of_the_document_bring_no_fields_of_their_own(message: str) -> None:
    parsed = parse_event(json.dumps(_golden(message)).encode())
    assert parsed.own_fields == ()
    assert list(json.loads(parsed.body).items()) == list(_golden(message).items())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"message":"chat_message","colour":1,"name":"\xff"}',
        b'{"message":"fax_new","colour":1,"name":"\xff"}',
        b'{"message":"fax_new","colour":1,',
    ],
)
def test_what_is_not_json_is_told_so_wherever_it_breaks(raw: bytes) -> None:
    with pytest.raises(EventError, match=r"^\$: not valid JSON: "):
        parse_event(raw)


def test_of_a_type_that_is_there_twice_the_last_one_counts() -> None:
    raw = json.dumps(TEXT).encode()
    assert parse_event(raw[:-1] + b',"type":"file"}').body.count(b'"type":"file"') == 1
    assert parse_event(b'{"type":"file",' + raw[1:]) == parse_event(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"message":"secret"}',
        b'{"message":"chat_message","type":"secret"}',
        b'{"message":"chat_message","type":"secret","type":"text"}',
        b'{"message":"chat_message","type":"secret","message":"fax_new"}',
    ],
)
def test_an_error_never_quotes_the_content(raw: bytes) -> None:
    with pytest.raises(EventError) as refused:
        parse_event(raw)
    assert "secret" not in str(refused.value)
