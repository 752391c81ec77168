"""`tocsin send`: ingest one event from the command line, exactly as a backend would through the API.

The commands are made from the Structs of `domain.events`: one for each `message`, with one option for each field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import msgspec
import typer
from msgspec import Struct

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import CommandError, InputError
from tocsin.cli.ingest import ingest
from tocsin.cli.output import print_json, remark
from tocsin.domain.event_schema import json_schema
from tocsin.domain.events import VARIANTS, ChatMessage, TextMessage, message_of

app = group("Ingest one event, as a backend would through the API. One command per event.")

_LINE_LENGTH: Final = 96


Compute = Callable[[Mapping[str, Any]], Any]
"""Makes the value of a field that was not given, from those that were."""


def event_command(
    variant: type[Struct], options: Sequence[Parameter] | None = None, computed: Mapping[str, Compute] | None = None
) -> Callable[..., None]:
    """A command that ingests an event of this form. Its `options` are the `field_options` unless others are given.

    `computed` makes the values of fields that were not given.
    """

    def send(config: Path | None, as_json: bool, field: list[str] | None = None, **fields: Any) -> None:
        given = {name: value for name, value in fields.items() if value is not None}
        given |= {name: compute(given) for name, compute in (computed or {}).items() if name not in given}
        _send({"message": message_of(variant)} | given, field or [], config, as_json)

    signature = Signature([*(field_options(variant) if options is None else options), *_COMMON])
    # What Typer reads to make the options.
    send.__signature__ = signature  # type: ignore[attr-defined]
    send.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    send.__doc__ = f"{json_schema(variant)['title']}."
    return send


def field_options(variant: type[Struct], defaults: Mapping[str, Any] | None = None) -> list[Parameter]:
    """An option for each field of an event of this form, the required ones first.

    `defaults` are for fields that the event must have and the command line need not give; one that is computed when the
    command runs is a function here, and shown by its name.
    """
    schema = json_schema(variant)
    required = dict.fromkeys(schema["required"], ...)
    declared = dict.fromkeys(schema["properties"]) | required | dict(defaults or {})
    del declared["message"]
    in_order = sorted(declared, key=lambda name: declared[name] is not ...)
    return [_option(name, schema["properties"][name], declared[name]) for name in in_order]


def example(variant: type[Struct], omitted: Sequence[str] = ()) -> str:
    """A command line for an event of this form: the examples of its required fields, without those `omitted`."""
    schema = json_schema(variant)
    line, lines = f"tocsin send {message_of(variant)}", []
    for name in schema["required"]:
        if name == "message" or name in omitted:
            continue
        option = f"{_option_name(name)} {_quoted(str(schema['properties'][name]['examples'][0]))}"
        if len(f"{line} {option} \\") > _LINE_LENGTH:
            lines.append(f"{line} \\")
            line = f"    {option}"
        else:
            line = f"{line} {option}"
    return "\n".join([*lines, line])


def _option(name: str, field: Mapping[str, Any], default: Any) -> Parameter:
    option = typer.Option(
        None if isinstance(default, FunctionType) else default,
        _option_name(name),
        metavar="UUID" if field.get("format") == "uuid" else None,
        help=field["description"],
        show_default=default.__name__ if isinstance(default, FunctionType) else True,
    )
    return _parameter(name, int if field.get("type") == "integer" else str, option)


def _option_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _quoted(word: str) -> str:
    """A word as it is typed in a shell."""
    if word.replace("-", "").replace("+", "").isalnum():
        return word
    return f'"{word}"' if "'" in word else f"'{word}'"


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_COMMON: Final = (_parameter("config", Config, None), _parameter("as_json", AsJson, False))


def _send(fields: dict[str, Any], own_fields: Sequence[str], config: Path | None, as_json: bool) -> None:
    own: dict[str, Any] = {}
    for name, value in map(_own_field, own_fields):
        if name in fields | own:
            raise InputError(f"--field {name}: the event has this field already; use its own option")
        own[name] = value
    accepted = ingest(fields | own, config, own_fields=own)
    try:
        if as_json:
            print_json({"accepted": 1, "events": [accepted]})
        else:
            typer.echo(accepted)
    except OSError as error:
        raise CommandError(f"standard output: {error.strerror}; the event is accepted, as {accepted}") from None
    if not as_json:
        remark(f"Accepted. What became of it: tocsin event show {accepted}")


def _own_field(given: str) -> tuple[str, Any]:
    name, separator, value = given.partition("=")
    if not name or not separator:
        raise InputError(f"--field {given}: must be NAME=JSON, like duration=12 or title='\"Holiday\"'")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        raise InputError(f"--field {name}: not JSON; a string needs its quotation marks: {name}='\"…\"'") from None


def _chat_options() -> list[Parameter]:
    """Those of a text message; one of another type has no text, and may have fields of its own."""

    help = "A field of another type's own; may be given again."
    own = typer.Option(None, "--field", metavar="NAME=JSON", help=help)
    options = field_options(TextMessage, {"time": now, "type": "text", "text": None})
    return [*options, _parameter("field", list[str] | None, own)]


def now(given: Mapping[str, Any]) -> int:
    """The time of a chat message: now, in Unix seconds.

    Raises:
        InputError: it has an id. Repeated later, it would be another event with the same id.
    """
    now_s = int(time.time())
    if "event_id" in given:
        raise InputError(
            f"--time: needed with --event-id, so that a repeat is the same event; now it is --time {now_s}"
        )
    return now_s


def _declare() -> None:
    for variant in VARIANTS:
        if not issubclass(variant, ChatMessage):
            command(app, message_of(variant), example=example(variant))(event_command(variant))
    # Its two forms are one command.
    chat = event_command(ChatMessage, _chat_options(), {"time": now})
    command(app, message_of(ChatMessage), example=example(TextMessage, omitted=["time"]))(chat)


_declare()
