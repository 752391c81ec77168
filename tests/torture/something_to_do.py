"""Gives the operator's commands something to do, before the load begins: dead letters that a provider has refused,
tokens that were removed, and a quarantine.

It has users of its own, to whom nothing is sent afterwards. None of their pushes is owed: their provider says that the
tokens are dead, or refuses.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from msgspec import Struct, field

from tests.torture.afterwards import backlog
from tests.torture.http_client import Client
from tests.torture.producers import NDJSON, PATH
from tests.torture.provider import Provider, Rule
from tests.torture.sent_events import SentEvents
from tests.torture.users import Device, User, new_owner

_REFUSED: Final = 20
_DYING: Final = 300
"""The fuse blows after 200 (`delivery/fuse.py`): some are removed before that, the others are quarantined."""
_MEASURED_WITHIN_S: Final = 1.2


class SomethingToDo(Struct):
    """What commands find: tokens that are not registered any more, and ids of dead letters."""

    dead_tokens: list[str] = field(default_factory=list)
    to_replay: list[str] = field(default_factory=list)
    to_discard: list[str] = field(default_factory=list)


def make_others(rng: random.Random) -> dict[str, list[Device]]:
    """These users, with a device each."""
    owners = (new_owner(rng) for _ in range(_REFUSED + _DYING))
    return {owner: [Device(owner, "apns", f"{rng.getrandbits(256):064x}")] for owner in owners}


async def make_something_to_do(
    users: list[User],
    provider: Provider,
    server_port: int,
    private_port: int,
    secret: str,
    sent: SentEvents,
    rng: random.Random,
) -> SomethingToDo:
    """Register the devices of these users (`make_others`), and have the provider refuse what is sent to them.

    Returns when all of it is on record.
    """
    client = Client(server_port, secret)
    devices = [user.devices[0] for user in users]
    for user, device in zip(users, devices, strict=True):
        await user.register(client, device)
    for device in devices:
        device.periods[-1].end_sent = time.time()
        device.refuses = True
    # Not in the millisecond in which the last of them was registered: it would be kept.
    now_ms = int(time.time() * 1000) + 1
    refused: list[Rule] = [
        {"match": {"token": device.token}, "status": 400, "reason": "PayloadEmpty"} for device in devices[:_REFUSED]
    ]
    await provider.script([*refused, {"status": 410, "reason": "Unregistered", "timestamp": now_ms}])
    events = [sent.make(user.owner, rng, with_id=True) for user in users]
    for event in events:
        event.sent_at = time.time()
    response = await client.call("POST", PATH, b"\n".join(event.body for event in events), NDJSON)
    assert response.status == 202, response.body
    sent.accepted(events, response.json()["events"])
    client.close()
    await asyncio.sleep(_MEASURED_WITHIN_S)
    private = Client(private_port)
    while await backlog(private):
        await asyncio.sleep(0.1)
    private.close()
    await provider.script([])
    letters = [str(event.event_id) for event in events[:_REFUSED]]
    dead_tokens = [device.token for device in devices[_REFUSED:]]
    return SomethingToDo(dead_tokens, letters[::2], letters[1::2])
