"""`tocsin send`: hand in one event from the command line, exactly as a backend would through the API."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer

from tocsin.cli.commands import AsJson, Config, command, group
from tocsin.cli.errors import InputError
from tocsin.cli.handing_in import hand_in
from tocsin.cli.output import print_json, remark

app = group("Hand in one event, as a backend would through the API. One command per event.")

Owner = Annotated[str, typer.Option("--owner", metavar="UUID", help="The user whose devices are rung.")]
OwnEventId = Annotated[
    str | None,
    typer.Option("--event-id", metavar="UUID", help="Your own id for it: the same one again is delivered once."),
]


def _uuid(name: str, help: str) -> Any:
    return typer.Option(name, metavar="UUID", help=help)


@command(
    app,
    "fax_new",
    example="""
tocsin send fax_new --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0 \\
    --fax af729cc0-3251-11e2-81c1-0800200c9a66 --phone +492215587412 --page-count 2
""",
)
def fax_new(
    owner: Owner,
    fax: Annotated[str, _uuid("--fax", "The new fax.")],
    phone: Annotated[str, typer.Option("--phone", help="The sender's number; empty where it is withheld.")],
    page_count: Annotated[int, typer.Option("--page-count", help="The number of pages.")],
    event_id: OwnEventId = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """A new fax has been received."""
    fields = {"message": "fax_new", "owner": owner, "fax": fax, "phone": phone, "page_count": page_count}
    _send(fields, event_id, config, as_json)


@command(
    app,
    "recording_new",
    example="""
tocsin send recording_new --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0 \\
    --recording af729cc0-3251-11e2-81c1-0800200c9a66 --phone +492215587412
""",
)
def recording_new(
    owner: Owner,
    recording: Annotated[str, _uuid("--recording", "The new recording.")],
    phone: Annotated[str, typer.Option("--phone", help="The caller's number; empty where it is withheld.")],
    event_id: OwnEventId = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """A new recording has been received."""
    fields = {"message": "recording_new", "owner": owner, "recording": recording, "phone": phone}
    _send(fields, event_id, config, as_json)


PhoneFrom = Annotated[str, typer.Option("--phone-from", help="The caller's number (origination).")]
PhoneTo = Annotated[str, typer.Option("--phone-to", help="The called number (destination).")]


@command(
    app,
    "dialplan_callreverse_start",
    example="""
tocsin send dialplan_callreverse_start --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0 \\
    --phone-from +4989123248278 --phone-to +492216698000
""",
)
def dialplan_callreverse_start(
    owner: Owner,
    phone_from: PhoneFrom,
    phone_to: PhoneTo,
    event_id: OwnEventId = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """A call-reverse function has been started."""
    _send_call("dialplan_callreverse_start", owner, phone_from, phone_to, event_id, config, as_json)


@command(
    app,
    "dialplan_callreverse_stop",
    example="""
tocsin send dialplan_callreverse_stop --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0 \\
    --phone-from +4989123248278 --phone-to +492216698000
""",
)
def dialplan_callreverse_stop(
    owner: Owner,
    phone_from: PhoneFrom,
    phone_to: PhoneTo,
    event_id: OwnEventId = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """A call-reverse function has been stopped."""
    _send_call("dialplan_callreverse_stop", owner, phone_from, phone_to, event_id, config, as_json)


@command(
    app,
    "chat_message",
    example="""
tocsin send chat_message --owner 9aed5e94-3803-11e3-8475-0024e8f90cc0 \\
    --chat 52a9fd3c-8aad-11e0-9138-0024e8f90cc0 --uuid c1aa1566-84d7-11e2-a7a8-0024e8f90cc0 \\
    --user 1de7257a-4f34-11e0-ab6e-0024e8f90cc1 --user-name 'John Doe' \\
    --type text --text "what's for lunch today?"
""",
)
def chat_message(
    owner: Owner,
    chat: Annotated[str, _uuid("--chat", "The chat.")],
    uuid: Annotated[str, _uuid("--uuid", "The message.")],
    user: Annotated[str, _uuid("--user", "Who wrote it.")],
    user_name: Annotated[str, typer.Option("--user-name", help="The full name of who wrote it.")],
    type: Annotated[str, typer.Option("--type", help="The type of chat message.")] = "text",
    text: Annotated[str | None, typer.Option("--text", help="The text, for the type `text`.")] = None,
    sent_at: Annotated[int | None, typer.Option("--time", metavar="SECONDS", help="Unix time; now by default.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="NAME=JSON", help="A field of another type's own; may be given again."),
    ] = None,
    event_id: OwnEventId = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """A chat message is delivered to a user."""
    fields: dict[str, Any] = {"message": "chat_message", "owner": owner, "chat": chat, "uuid": uuid}
    fields |= {"time": int(time.time()) if sent_at is None else sent_at, "user": user, "user_name": user_name}
    fields |= {"type": type} | ({} if text is None else {"text": text})
    for given in field or []:
        name, value = _own_field(given)
        if name in fields:
            raise InputError(f"--field {name}: the event has this field already; use its own option")
        fields[name] = value
    _send(fields, event_id, config, as_json)


def _own_field(given: str) -> tuple[str, Any]:
    name, separator, value = given.partition("=")
    if not name or not separator:
        raise InputError(f"--field {given}: must be NAME=JSON, like duration=12 or title='\"Holiday\"'")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        raise InputError(f"--field {name}: not JSON; a string needs its quotation marks: {name}='\"…\"'") from None


def _send_call(
    message: str,
    owner: str,
    phone_from: str,
    phone_to: str,
    event_id: str | None,
    config: Config,
    as_json: bool,
) -> None:
    fields = {"message": message, "owner": owner, "phone_from": phone_from, "phone_to": phone_to}
    _send(fields, event_id, config, as_json)


def _send(fields: dict[str, Any], event_id: str | None, config: Config, as_json: bool) -> None:
    accepted = hand_in(fields | ({} if event_id is None else {"event_id": event_id}), config)
    if as_json:
        print_json({"accepted": 1, "events": [accepted]})
        return
    typer.echo(accepted)
    remark(f"Accepted. What became of it: tocsin event show {accepted}")
