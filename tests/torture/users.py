"""Users with their devices, registered through `/api/push`, and when each registration began and ended."""

from __future__ import annotations

import asyncio
import random
import time
import uuid

import msgspec
from msgspec import Struct, field

from tests.torture.http_client import Client, NoResponse
from tests.torture.processes import APPLICATION, VOIP_TOPIC

IN_TRANSIT_S = 4.0
"""How long after the response to a deletion a push may still arrive: it was in flight, or in the provider's sockets."""


class Period(Struct):
    """The time of one registration, as its app knows it: for its beginning and its end there are two times each."""

    add_sent: float
    add_answered: float | None = None
    end_sent: float | None = None
    """From when on it may be gone: the deletion was sent, or the provider began to answer that the token is dead."""
    deleted: float | None = None
    """When the deletion was answered."""


class Device(Struct, eq=False):
    """A device of one user, with every period in which it was registered."""

    owner: str
    system: str
    token: str
    sandbox: bool = False
    topic: str | None = None
    periods: list[Period] = field(default_factory=list)
    refuses: bool = False
    """Whether its provider was told to refuse what is sent to it."""

    @property
    def key(self) -> str:
        return f"{self.system}:{self.token}"

    @property
    def environment(self) -> str | None:
        return None if self.system == "fcm" else "sandbox" if self.sandbox else "production"

    def registered_throughout(self, since: float) -> bool:
        """Whether it was certainly registered from before `since` to the end of the run."""
        return any(
            period.add_answered is not None and period.add_answered <= since and period.end_sent is None
            for period in self.periods
        )

    def lateness(self, at: float) -> float:
        """How long after an answered deletion a push at this time comes; 0 where the device may be registered."""
        late = float("inf")
        for period in self.periods:
            if period.add_sent <= at:
                late = min(late, 0.0 if period.deleted is None else max(0.0, at - period.deleted))
        return late

    def body(self, action: str) -> bytes:
        fields: dict[str, object] = {"system": self.system, "action": action, "device_token": self.token}
        if self.system == "apns" and action == "add":
            fields |= {"application_id": APPLICATION, "sandbox": self.sandbox}
            fields |= {"apns_topic": self.topic} if self.topic else {}
        return msgspec.json.encode(fields)


class User:
    """A user with a session, and the apps on the user's devices."""

    def __init__(self, owner: str, session: str, devices: list[Device]) -> None:
        self.owner = owner
        self.session = session
        self.devices = devices
        self.changes_tokens = False
        """Whether the tokens are deleted and registered again while events are delivered."""

    async def register(self, client: Client, device: Device) -> None:
        """Repeats the request until it is answered: a registration may be repeated."""
        period = Period(time.time())
        device.periods.append(period)
        await self._until_answered(client, device.body("add"))
        period.add_answered = time.time()

    async def delete(self, client: Client, device: Device) -> None:
        period = device.periods[-1]
        period.end_sent = time.time()
        await self._until_answered(client, device.body("delete"))
        period.deleted = time.time()

    async def _until_answered(self, client: Client, body: bytes) -> None:
        while True:
            try:
                response = await client.call("POST", "/api/push", body, secret=self.session)
            except NoResponse:
                await asyncio.sleep(0.1)
                continue
            if response.status == 200:
                assert response.body == b"{}", response.body
                return
            assert response.status == 503, (response.status, response.body)
            await asyncio.sleep(0.1)


def make_devices(owner: str, rng: random.Random) -> list[Device]:
    """Two to four of: an iPhone, its PushKit token, a development build, an Android phone."""

    def apns(sandbox: bool, topic: str | None = None) -> Device:
        return Device(owner, "apns", f"{rng.getrandbits(256):064x}", sandbox, topic)

    kinds = [
        apns(False),
        apns(True),
        apns(False, VOIP_TOPIC),
        Device(owner, "fcm", f"fcm-{rng.getrandbits(400):0100x}"),
    ]
    return rng.sample(kinds, rng.randint(2, 4))


def new_owner(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def make_users(count: int, rng: random.Random) -> dict[str, list[Device]]:
    """Owners with their devices; every tenth shares a device with the one before."""
    users: dict[str, list[Device]] = {}
    before: list[Device] = []
    for number in range(count):
        owner = new_owner(rng)
        own = make_devices(owner, rng)
        if number % 10 == 9:
            shared = before[0]
            own.append(Device(owner, shared.system, shared.token, shared.sandbox, shared.topic))
        users[owner] = before = own
    return users
