"""Backends that publish to JetStream: single messages and batches, with ids of their own and without."""

from __future__ import annotations

import asyncio
import random
import time
import uuid

from nats.js import JetStreamContext

from tests.cluster.running import NORMAL, STREAM, URGENT
from tests.torture.producers import NDJSON, Pace
from tests.torture.sent_events import SentEvent, SentEvents
from tests.torture.users import User
from tocsin.domain.events import URGENT as URGENT_MESSAGES
from tocsin.sources.identity import by_message_id, derived_ids

_REPEAT = 0.02


class Backend:
    """One that publishes until the pace has come to its end. What got no acknowledgement is published again, under the
    same `Nats-Msg-Id`; sometimes what got one, too."""

    def __init__(
        self, bus: JetStreamContext, users: list[User], sent: SentEvents, pace: Pace, rng: random.Random, until: float
    ) -> None:
        self._bus = bus
        self._users = users
        self._sent = sent
        self._pace = pace
        self._rng = rng
        self._until = until

    async def run(self, most: int, *, with_id: bool) -> None:
        while not self._pace.finished:
            count = self._pace.take(self._rng.randint(1, most))
            if not count:
                await asyncio.sleep(0.01)
                continue
            await self._publish([self._make(with_id) for _ in range(count)])

    def _make(self, with_id: bool) -> SentEvent:
        event = self._sent.make(self._rng.choice(self._users).owner, self._rng, with_id=with_id)
        event.on_the_bus = True
        return event

    async def _publish(self, events: list[SentEvent]) -> None:
        message_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        headers = {"Nats-Msg-Id": message_id} | ({"Content-Type": NDJSON} if len(events) > 1 else {})
        body = b"\n".join(event.body for event in events)
        derived = derived_ids(by_message_id(STREAM, message_id), len(events))
        ids = [event.event_id or id for event, id in zip(events, derived, strict=True)]
        is_urgent = all(event.message in URGENT_MESSAGES for event in events)
        for event in events:
            event.sent_at = time.time()
        while time.time() < self._until:
            try:
                await self._bus.publish(URGENT if is_urgent else NORMAL, body, headers=headers)
            except Exception:  # no leader, no server, or no answer
                self._sent.count("messages without an acknowledgement, published again")
                for event in events:
                    event.unanswered = True
                await asyncio.sleep(self._rng.random() * 0.2)
                continue
            self._sent.count("messages acknowledged by the stream")
            self._sent.accepted(events, ids)
            if self._rng.random() >= _REPEAT:
                return
            self._sent.count("messages published again after their acknowledgement")


class BadBackend:
    """Publishes what must be refused: a batch with one bad line."""

    def __init__(self, bus: JetStreamContext, users: list[User], sent: SentEvents, rng: random.Random) -> None:
        self._bus = bus
        self._users = users
        self._sent = sent
        self._rng = rng
        self.published = 0
        """Messages that the stream has acknowledged: each must be among the refusals."""

    async def run(self, every_s: float) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(every_s * self._rng.random() * 2)
            good = self._sent.make(self._rng.choice(self._users).owner, self._rng, with_id=False)
            good.invalid = True
            body = good.body + b'\n{"message":"fax_new","owner":"nobody"}'
            try:
                await self._bus.publish(NORMAL, body, headers={"Content-Type": NDJSON})
            except Exception:
                continue  # it may be in the stream, and is not counted
            self.published += 1
