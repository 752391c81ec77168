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
        (FAX | {"page_count": 24894.0}, True),
        (FAX | {"page_count": 2e3}, True),
        (FAX | {"page_count": -0.0}, True),
        (TEXT | {"time": 1362407297.0}, True),
        (FILE | {"time": 1362407297.0}, True),
        (FAX | {"page_count": 1e300}, False),
        (FAX | {"page_count": -1.0}, False),
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


def test_an_integer_is_kept_as_such_however_it_is_written() -> None:
    for written in ("2", "2.0", "20e-1", "0.2e1"):
        raw = json.dumps(FAX).replace('"page_count": 2', f'"page_count": {written}')
        body = parse_event(raw.encode()).body
        assert json.loads(body)["page_count"] == 2
        assert body.endswith(b'"page_count":2}')


# -- the parser --------------------------------------------------------------------------------------------------------


def test_the_fields_that_another_type_of_chat_message_brings_are_named() -> None:
    parsed = parse_event(json.dumps(FILE | {"event_id": EVENT_ID, "name": "a.pdf", "gcm": {}}).encode())
    assert (parsed.event_id, parsed.own_fields) == (EVENT_ID, ("name", "gcm"))
    assert list(json.loads(parsed.body)) == [*FILE, "gcm", "name"]


@pytest.mark.parametrize("message", MESSAGES)
def test_the_five_events_of_the_document_bring_no_fields_of_their_own(message: str) -> None:
    parsed = parse_event(json.dumps(_golden(message)).encode())
    assert parsed.own_fields == ()
    assert list(json.loads(parsed.body).items()) == list(_golden(message).items())


def _with(field: str, event: Mapping[str, Any] = FILE) -> bytes:
    return json.dumps(event).encode()[:-1] + f",{field}}}".encode("latin-1")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"message":"chat_message","colour":1,"name":"\xff"}', "$.name: not valid JSON: not UTF-8"),
        (b'{"message":"fax_new","colour":1,"name":"\xff"}', "$.name: not valid JSON: not UTF-8"),
        (b'{"owner":1,"x":"\xff"}', "$.x: not valid JSON: not UTF-8"),
        (b'{"owner":1,"\xff":1}', "$: not valid JSON: not UTF-8"),
        (b'{"message":"fax_new","colour":1,', "$: not valid JSON: Input data was truncated"),
        (_with('"far":1e400'), "$.far: a number that is out of range"),
        (_with('"far":' + "1" * 5000), "$.far: a number that is out of range"),
        (_with('"far":1e400', FAX), "$.far: a number that is out of range"),
        (b'{"message":"fax_new","page_count":1e400}', "$.page_count: a number that is out of range"),
        (_with('"half":"\\ud83d"'), "$.half: half of a surrogate pair, which is no character"),
        (_with('"half":"\\ude00 a"'), "$.half: half of a surrogate pair, which is no character"),
        (_with('"half":["\\uD83D\\ud83d"]'), "$.half: half of a surrogate pair, which is no character"),
        (
            _with('"text":"\\ud83d"', {**TEXT, "type": "text"}),
            "$.text: half of a surrogate pair, which is no character",
        ),
        (_with('"\\ud83d":1'), "$: half of a surrogate pair, which is no character"),
        (_with('"deep":' + "[" * 65 + "]" * 65), "$.deep: nested more than 64 levels deep"),
        (_with('"deep":' + '{"a":' * 980 + "1" + "}" * 980), "$.deep: nested more than 64 levels deep"),
        (_with('"a":{"b":[{}]},"deep":' + "[" * 30_000 + "]" * 30_000), "$.deep: nested more than 64 levels deep"),
        (b'{"deep":' + b"[" * 1_000_000, "$.deep: nested more than 64 levels deep"),
        (_with('"long":"' + "x" * 40_000 + '"'), "$: longer than 32768 bytes, not counting its `text`"),
        (_with('"text":[' + "1," * 20_000 + "1]"), "$: longer than 32768 bytes, not counting its `text`"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_decoded_is_told_as_what_it_is_and_where(raw: bytes, said: str) -> None:
    with pytest.raises(EventError) as refused:
        parse_event(raw)
    assert str(refused.value) == said


def test_what_is_nested_as_deep_as_allowed_is_taken() -> None:
    assert b"[" * 64 in parse_event(_with('"deep":' + "[" * 64 + "]" * 64)).body
    assert "😀".encode() in parse_event(_with('"pair":"\\ud83d\\ude00"')).body


def test_a_name_that_may_be_a_secret_is_not_quoted() -> None:
    for name in ("s" * 3000, "not a name", "x y` - at `$.secret!"):
        for raw in (_with(f'"{name}":1', FAX), _with(f'"{name}":1e400'), _with(f'"{name}":' + "[" * 70 + "]" * 70)):
            with pytest.raises(EventError, match=r"^\$\.\*: "):
                parse_event(raw)


def test_the_order_and_place_of_fields_make_no_other_event() -> None:
    own = {"name": "a.pdf", "size": {"height": 1, "width": {"b": [{"y": 1, "x": 2}], "a": 2}}, "area": 1}
    turned = {"area": 1, "size": {"width": {"a": 2, "b": [{"x": 2, "y": 1}]}, "height": 1}, "name": "a.pdf"}
    bodies = {
        parse_event(json.dumps(event).encode()).body
        for event in (
            {**FILE, **own},
            {**turned, **FILE},
            dict(reversed([*FILE.items(), *own.items()])),
            {**own, "type": FILE["type"], "user_name": FILE["user_name"], **FILE},
        )
    }
    assert len(bodies) == 1
    assert json.loads(bodies.pop()) == {**FILE, **own}


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
