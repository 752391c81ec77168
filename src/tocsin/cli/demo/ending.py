"""What to try once everything has arrived: addresses, and commands that can be pasted as they are."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import msgspec

from tocsin.cli.demo.arrivals import Arrival
from tocsin.cli.demo.cast import ANNA, JOHN
from tocsin.cli.demo.stage import Stage
from tocsin.domain.devices import System


def two_contents(arrivals: list[Arrival]) -> str:
    """One event as Apple's and as Google's phones got it, side by side."""
    lines = []
    for provider, label in (("apns", "APNs"), ("fcm", "FCM ")):
        for arrival in arrivals:
            if arrival.provider == provider and arrival.event == "fax_new":
                lines.append(f"  {label}  {_json(arrival.content)}")
                break
    return "\n".join(["fax_new as it arrived:", *lines])


def to_try(stage: Stage, event_ids: dict[str, str]) -> str:
    """Everything that one can go on with."""
    url, sid, key = stage.url, stage.secrets.sids[ANNA.id], stage.secrets.producer_key
    pixel = next(phone for phone in ANNA.phones if phone.system is System.FCM)
    fax = {"owner": JOHN.id, "message": "fax_new", "fax": "af729cc0-3251-11e2-81c1-0800200c9a66"}
    fax_event = event_ids["fax_new"]
    sign_off = {"system": "fcm", "action": "delete", "device_token": pixel.token}
    steps = [
        ("what Anna's apps have registered", _curl(f"{url}/api/push", bearer=sid)),
        (
            "a fax for John: his two phones ring, and this terminal shows it",
            _curl(f"{url}/api/events", bearer=key, body=fax | {"phone": "+4930123456", "page_count": 3}),
        ),
        ("every attempt to deliver Anna's fax", _curl(f"{url}/api/events/{fax_event}", bearer=key)),
        ("Anna's Pixel signs off", _curl(f"{url}/api/push", bearer=sid, body=sign_off)),
        ("what has arrived at Anna's Pixel", _curl(f"{stage.emulator['control']}/inbox?token={pixel.token}")),
        ("the same from the operator's side", _tocsin(stage, f"event show {fax_event}")),
        ("Anna's devices, with when each was last reached", _tocsin(stage, f"device list --owner {ANNA.id}")),
    ]
    addresses = [
        f"The server:    {url}  (API description: {url}/schema)",
        f"Apple, Google: {stage.emulator['apns']['production']}  {stage.emulator['fcm']}  (the emulator)",
        f"Admin key:     {stage.secrets.admin_key}",
        "",
        "To try in another terminal:",
    ]
    return "\n".join([*addresses, *(f"\n# {title}\n{line}" for title, line in steps)])


def _curl(url: str, *, bearer: str | None = None, body: dict[str, Any] | None = None) -> str:
    parts = ["curl", "-sS"]
    parts += ["-H", f"Authorization: Bearer {bearer}"] if bearer else []
    parts += ["-H", "Content-Type: application/json", "-d", _json(body)] if body else []
    return shlex.join([*parts, url])


def _tocsin(stage: Stage, arguments: str) -> str:
    return f"{shlex.quote(sys.executable)} -m tocsin {arguments} --config {shlex.quote(str(stage.config))}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
