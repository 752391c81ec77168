"""The demo's users and phones, what is published for them, and what has rung where."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

import msgspec
from msgspec import Struct, field
from nats.js import JetStreamContext

from tests.cluster.running import NORMAL, URGENT, Cluster
from tests.torture.http_client import Client, NoResponse
from tests.torture.journal import JournalReader
from tests.torture.sent_events import marker_of
from tocsin.cli.demo.users import USERS, User
from tocsin.domain.events import URGENT as URGENT_MESSAGES

_REPEAT_S: Final = 0.1
_OWNERS: Final = {phone.token: user for user in USERS for phone in user.phones}


class Published(Struct, eq=False):
    """One event on the bus, and when it rang, by token."""

    marker: str
    message: str
    user: User
    at: float
    rang: dict[str, list[float]] = field(default_factory=dict)

    @property
    def has_rung_everywhere(self) -> bool:
        return all(phone.token in self.rang for phone in self.user.phones)

    @property
    def waited_s(self) -> float:
        """How long the last of its phones has waited."""
        return max(times[0] for times in self.rang.values()) - self.at


class Phones:
    """Publishes as a backend does, and sees what rings."""

    def __init__(self, cluster: Cluster, bus: JetStreamContext) -> None:
        self._cluster = cluster
        self._bus = bus
        self._ports = cycle(cluster.api_ports)
        self._journal = JournalReader(cluster.emulator.journal)
        self.published: dict[str, Published] = {}
        self.wrong = 0
        """Pushes to phones that they were not for."""

    async def register(self, user: User) -> None:
        """As the user's apps do: through whichever API node answers."""
        for phone in user.phones:
            await self._call("/api/push", phone.registration(), self._cluster.sessions[user.id], 200)

    async def publish(self, event: dict[str, Any]) -> Published:
        """Publish until the stream has acknowledged it, under one id."""
        marker = _marker(event)
        user = next(user for user in USERS if user.id == event["owner"])
        published = self.published[marker] = Published(marker, event["message"], user, time.time())
        subject = URGENT if event["message"] in URGENT_MESSAGES else NORMAL
        async with asyncio.timeout(60):
            while True:
                try:
                    await self._bus.publish(subject, msgspec.json.encode(event), headers={"Nats-Msg-Id": marker})
                    return published
                except Exception:
                    await asyncio.sleep(_REPEAT_S)

    async def publish_fax(self, user: User) -> Published:
        return await self.publish(_fax(user))

    async def post_fax(self, user: User) -> Published:
        """The same over HTTP: repeated until an API node has accepted it, under one id."""
        event = _fax(user)
        marker = _marker(event)
        published = self.published[marker] = Published(marker, "fax_new", user, time.time())
        await self._call("/api/events", event | {"event_id": event["fax"]}, self._cluster.producer_key, 202)
        return published

    async def _call(self, path: str, body: dict[str, Any], secret: str, status: int) -> None:
        """Repeat the request until it is answered so: by one API node after the other."""
        async with asyncio.timeout(60):
            while True:
                client = Client(next(self._ports))
                try:
                    response = await client.call("POST", path, msgspec.json.encode(body), secret=secret)
                except NoResponse:
                    response = None
                finally:
                    client.close()
                if response is not None and response.status == status:
                    return
                await asyncio.sleep(_REPEAT_S)

    async def rung(self, events: Sequence[Published], within_s: float) -> bool:
        """Wait until each has rung at every phone of its user; whether it did in time."""
        deadline = time.monotonic() + within_s
        while True:
            self._look()
            if all(event.has_rung_everywhere for event in events):
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)

    def _look(self) -> None:
        for push in self._journal.read_new():
            event, token = self.published.get(_marker(push["data"])), push["token"]
            if event is None or _OWNERS.get(token) is not event.user:
                self.wrong += 1
            else:
                event.rang.setdefault(token, []).append(push["t"])


def _marker(content: dict[str, Any]) -> str:
    """What tells an event from all others: two of the demo's have the same fields."""
    return f"{content['message']} {marker_of(content)}"


def _fax(user: User) -> dict[str, Any]:
    return {"owner": user.id, "message": "fax_new", "fax": str(uuid.uuid4()), "phone": "", "page_count": 1}
