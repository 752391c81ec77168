"""Tokens that are deleted, declared dead by the provider, and registered again, while events are delivered to them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from tests.torture.http_client import Client
from tests.torture.provider import Provider, Rule
from tests.torture.users import Device, User


class Tokens:
    """Those of the users who change theirs. `note` is told what is done."""

    def __init__(
        self,
        ports: int | Sequence[int],
        users: list[User],
        provider: Provider,
        rng: random.Random,
        note: Callable[[str], None],
    ) -> None:
        self._ports = ports
        self._users = users
        self._provider = provider
        self._rng = rng
        self._note = note

    async def die(self) -> None:
        """The provider answers that a token is dead; after a while the app registers it again for each of its users."""
        _, device = self._changing_device()
        holders = [(user, own) for user in self._users for own in user.devices if own.token == device.token]
        if any(own.periods[-1].end_sent is not None or own.periods[-1].add_answered is None for _, own in holders):
            return
        self._note("tokens declared dead")
        for _, own in holders:
            own.periods[-1].end_sent = time.time()
        dead: Rule = {"match": {"token": device.token}, "status": 404, "reason": "UNREGISTERED"}
        if device.system == "apns":
            dead |= {"status": 410, "reason": "Unregistered", "timestamp": int(time.time() * 1000)}
        await self._provider.script([dead])
        await asyncio.sleep(0.5 + self._rng.random())
        await self._provider.script([])
        client = Client(self._ports)
        for user, own in holders:
            await user.register(client, own)
        client.close()

    async def change(self, finished: Callable[[], bool]) -> None:
        """Delete tokens and register them again, until `finished`."""
        client = Client(self._ports)
        while not finished():
            user, device = self._changing_device()
            last = device.periods[-1]
            if last.deleted is not None:
                await user.register(client, device)
            elif last.end_sent is None:
                self._note("tokens deleted")
                await user.delete(client, device)
                await asyncio.sleep(self._rng.random())
                if self._rng.random() < 0.7:
                    await user.register(client, device)
            await asyncio.sleep(self._rng.random() * 0.5)
        client.close()

    def _changing_device(self) -> tuple[User, Device]:
        user = self._rng.choice([user for user in self._users if user.changes_tokens])
        return user, self._rng.choice(user.devices)
