"""Users with their devices, registered through `/api/push`; what is known of each registration, and since when."""

from __future__ import annotations

import asyncio
import random
import time
import uuid

import msgspec
from msgspec import Struct, field

from tests.torture.processes import APPLICATION, VOIP_TOPIC
from tests.torture.wire import Client, NoAnswer

ON_THE_WIRE_S = 4.0
"""How long after the answer to a deletion a push may still arrive: it was on its way, or in the provider's sockets."""


class Span(Struct):
    """One registration from its beginning to its end, as seen from outside: each end has two instants."""

    add_sent: float
    add_answered: float | None = None
    end_sent: float | None = None
    """Since when it may be gone: the deletion was sent, or the provider began to call the token dead."""
    deleted: float | None = None
    """When the deletion was answered."""


class Device(Struct, eq=False):
    owner: str
    system: str
    token: str
    sandbox: bool = False
    topic: str | None = None
    spans: list[Span] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.system}:{self.token}"

    @property
    def environment(self) -> str | None:
        return None if self.system == "fcm" else "sandbox" if self.sandbox else "production"

    def registered_throughout(self, since: float) -> bool:
        """From before `since` to the end of the run, without a doubt."""
        return any(
            span.add_answered is not None and span.add_answered <= since and span.end_sent is None
            for span in self.spans
        )

    def may_receive(self, at: float) -> bool:
        return self.lateness(at) <= ON_THE_WIRE_S

    def lateness(self, at: float) -> float:
        """How long after an answered deletion a push at this time comes; 0 where the device may be registered."""
        late = float("inf")
        for span in self.spans:
            if span.add_sent <= at:
                late = min(late, 0.0 if span.deleted is None else max(0.0, at - span.deleted))
        return late

    def body(self, action: str) -> bytes:
        fields: dict[str, object] = {"system": self.system, "action": action, "device_token": self.token}
        if self.system == "apns" and action == "add":
            fields |= {"application_id": APPLICATION, "sandbox": self.sandbox}
            fields |= {"apns_topic": self.topic} if self.topic else {}
        return msgspec.json.encode(fields)


class User:
    def __init__(self, owner: str, session: str, devices: list[Device]) -> None:
        self.owner = owner
        self.session = session
        self.devices = devices
        self.restless = False
        """Whether its tokens are deleted and registered again while events come."""

    async def register(self, client: Client, device: Device) -> None:
        """Until it is answered: a registration may be repeated."""
        span = Span(time.time())
        device.spans.append(span)
        await self._until_answered(client, device.body("add"))
        span.add_answered = time.time()

    async def delete(self, client: Client, device: Device) -> None:
        span = device.spans[-1]
        span.end_sent = time.time()
        await self._until_answered(client, device.body("delete"))
        span.deleted = time.time()

    async def _until_answered(self, client: Client, body: bytes) -> None:
        while True:
            try:
                answer = await client.call("POST", "/api/push", body, secret=self.session)
            except NoAnswer:
                await asyncio.sleep(0.1)
                continue
            if answer.status == 200:
                assert answer.body == b"{}", answer.body
                return
            assert answer.status == 503, (answer.status, answer.body)
            await asyncio.sleep(0.1)


def make_devices(owner: str, dice: random.Random) -> list[Device]:
    """Two to four: an iPhone, its PushKit token, a development build, an Android phone."""

    def apns(sandbox: bool, topic: str | None = None) -> Device:
        return Device(owner, "apns", f"{dice.getrandbits(256):064x}", sandbox, topic)

    kinds = [
        apns(False),
        apns(True),
        apns(False, VOIP_TOPIC),
        Device(owner, "fcm", f"fcm-{dice.getrandbits(400):0100x}"),
    ]
    return dice.sample(kinds, dice.randint(2, 4))


def new_owner(dice: random.Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))
