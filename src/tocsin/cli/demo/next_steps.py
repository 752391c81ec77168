"""What to try once everything has arrived: addresses, and a file with commands that can be pasted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.cli.console import INSTALL
from tocsin.cli.demo.environment import Environment
from tocsin.cli.demo.received import ReceivedPush
from tocsin.cli.demo.users import ANNA, JOHN
from tocsin.providers.apns.address import NAME as APNS
from tocsin.providers.fcm.address import NAME as FCM


def contents_compared(received: Sequence[ReceivedPush]) -> str:
    """The content of one event as Apple's and as Google's phones received it."""
    lines = []
    for provider, label in ((APNS, "APNs"), (FCM, "FCM ")):
        for push in received:
            if push.provider == provider and push.event == "fax_new":
                lines.append(f"  {label}  {_json(push.content)}")
                break
    return "\n".join(["fax_new as it arrived:", *lines])


def console_address(environment: Environment) -> str:
    """Where the console is, and how to sign in."""
    if environment.console_url is None:
        return f"The console needs more than is installed: {INSTALL}"
    return f"The console: {environment.console_url}\n  sign in with {environment.secrets.admin_key}"


def next_steps(environment: Environment, event_ids: dict[str, str]) -> str:
    """The addresses of everything that runs, and a file of the demo's directory with commands to try.

    It is written here: the commands are too long for the screen. `event_ids` by the names of the events.
    """
    commands = environment.directory / "commands"
    steps = _steps(environment, event_ids)
    commands.write_text("\n\n".join(f"# {title}\n{line}" for title, line in steps) + "\n")
    production, google = environment.emulator["apns"]["production"], environment.emulator["fcm"]
    return "\n".join(
        [
            f"The server:    {environment.url}  (API description: {environment.url}/schema)",
            f"Apple, Google: {production}  {google}  (the emulator)",
            f"To try:        cat {shlex.quote(str(commands))}",
        ]
    )


def _steps(environment: Environment, event_ids: dict[str, str]) -> list[tuple[str, str]]:
    """What a command does, and the command."""
    url, secrets = environment.url, environment.secrets
    sid, key = secrets.sids[ANNA.id], secrets.producer_key
    pixel = next(phone for phone in ANNA.phones if phone.provider == FCM)
    fax = {"owner": JOHN.id, "message": "fax_new", "fax": "af729cc0-3251-11e2-81c1-0800200c9a66"}
    fax_event = event_ids["fax_new"]
    delete = {"system": pixel.provider, "action": "delete", "device_token": pixel.token}
    return [
        (
            "a fax for John: his two phones receive it, and this terminal shows it",
            _curl(f"{url}/api/events", bearer=key, body=fax | {"phone": "+4930123456", "page_count": 3}),
        ),
        ("what Anna's apps have registered", _curl(f"{url}/api/push", bearer=sid)),
        ("every attempt to deliver Anna's fax", _curl(f"{url}/api/events/{fax_event}", bearer=key)),
        ("delete the registration of Anna's Pixel", _curl(f"{url}/api/push", bearer=sid, body=delete)),
        ("what has arrived at Anna's Pixel", _curl(f"{environment.emulator['control']}/inbox?token={pixel.token}")),
        ("whether all is well, and the state of every lane", _curl(f"{url}/health/ready", bearer=secrets.admin_key)),
        ("the attempts again, from the command line", _tocsin(environment, f"event show {fax_event}")),
        (
            "Anna's devices, with the time of the last push to each",
            _tocsin(environment, f"device list --owner {ANNA.id}"),
        ),
    ]


def _curl(url: str, *, bearer: str | None = None, body: dict[str, Any] | None = None) -> str:
    parts = ["curl", "-sS"]
    parts += ["-H", f"Authorization: Bearer {bearer}"] if bearer else []
    parts += ["-H", "Content-Type: application/json", "-d", _json(body)] if body else []
    return shlex.join([*parts, url])


def _tocsin(environment: Environment, arguments: str) -> str:
    return f"{shlex.quote(sys.executable)} -m tocsin {arguments} --config {shlex.quote(str(environment.config))}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
