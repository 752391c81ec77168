"""The platform's backends: they send events at a given pace, cut some of their connections, and send again."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable

import msgspec

from tests.torture.http_client import Client, NoResponse
from tests.torture.sent_events import SentEvent, SentEvents
from tests.torture.users import User

PATH = "/api/events"
JSON, NDJSON = "application/json", "application/x-ndjson"
_CUT = 0.03
_REPEAT = 0.03


class Pace:
    """How many events should have been sent by now; while `flooding` there is no limit but the total."""

    def __init__(self, total: int, seconds: float) -> None:
        self.total = total
        self.taken = 0
        self.flooding = False
        self._rate = total / seconds
        self._started = time.monotonic()

    @property
    def finished(self) -> bool:
        return self.taken >= self.total

    def take(self, most: int) -> int:
        due = self.total if self.flooding else min(self.total, int((time.monotonic() - self._started) * self._rate))
        taken = max(0, min(most, due - self.taken))
        self.taken += taken
        return taken

    def give_back(self, count: int) -> None:
        """These were refused and are not sent again: as many others are to be sent."""
        self.taken -= count


class Producer:
    """One connection of a backend."""

    def __init__(
        self, client: Client, users: list[User], sent: SentEvents, pace: Pace, rng: random.Random, until: float
    ) -> None:
        self._client = client
        self._users = users
        self._sent = sent
        self._pace = pace
        self._rng = rng
        self._until = until

    async def run(self, most: int, *, with_id: bool) -> None:
        """Send batches of up to `most` events (1: single events) until the pace has come to its end."""
        last: list[SentEvent] = []
        while not self._pace.finished:
            if with_id and last and self._rng.random() < _REPEAT:
                self._sent.count("sent again after their 202", len(last))
                await self._send(last, many=most > 1)
            count = self._pace.take(self._rng.randint(1, most))
            if not count:
                await asyncio.sleep(0.01)
                continue
            events = [
                self._sent.make(self._rng.choice(self._users).owner, self._rng, with_id=with_id) for _ in range(count)
            ]
            await self._send(events, many=most > 1)
            last = events if events[0].accepted_at is not None else []
        self._client.close()

    async def _send(self, events: list[SentEvent], *, many: bool) -> None:
        """Repeat until there is a response. Without ids of the producer it is not repeated where it may be accepted."""
        kind = NDJSON if many else JSON
        repeatable, unknown = events[0].event_id is not None, False
        for event in events:
            event.sent_at = event.sent_at or time.time()
        while time.time() < self._until:
            body = b"\n".join(event.body for event in events)
            try:
                if self._rng.random() < _CUT:
                    self._sent.count("connections cut by the producer")
                    await self._client.call_and_cut("POST", PATH, body, kind, self._rng)
                response = await self._client.call("POST", PATH, body, kind)
            except NoResponse as failure:
                self._sent.count("requests without a response")
                if failure.sent:
                    for event in events:
                        event.unanswered = True
                    if not repeatable:
                        return
                await asyncio.sleep(self._rng.random() * 0.2)
                continue
            self._sent.count(f"responses {response.status}")
            if response.status == 202:
                self._sent.accepted(events, response.json()["events"])
                return
            if response.status != 503:
                self._sent.wrong_responses.append(f"valid events: {response.status} {response.body[:300]!r}")
                return
            if response.json()["type"].endswith("outcome-unknown"):
                self._sent.count("outcomes unknown, repeated with the ids of the answer")
                self._sent.unknown(events, response.json()["events"])
                repeatable = unknown = True
            if not unknown and self._rng.random() < 0.2:
                self._pace.give_back(sum(event.accepted_at is None for event in events))
                return  # not sent again: they were refused, and must not arrive
            await asyncio.sleep(min(float(response.headers.get("retry-after", 1)), 0.5) * self._rng.random())


class BadProducer:
    """Sends what must be refused, at any time."""

    def __init__(self, client: Client, users: list[User], sent: SentEvents, rng: random.Random) -> None:
        self._client = client
        self._users = users
        self._sent = sent
        self._rng = rng

    async def run(self, finished: Callable[[], bool]) -> None:
        while not finished():
            await self._rng.choice((self._one_bad_line, self._conflict, self._wrong_key))()
            await asyncio.sleep(0.1 + self._rng.random() * 0.2)
        self._client.close()

    async def _one_bad_line(self) -> None:
        events = [self._make() for _ in range(self._rng.randint(1, 20))]
        lines = [event.body for event in events]
        lines.insert(self._rng.randint(0, len(lines)), b'{"message":"fax_new","owner":"nobody"}')
        await self._expect(400, b"\n".join(lines), NDJSON)

    async def _conflict(self) -> None:
        """The id of an event that is on record, with other content."""
        known = [
            event
            for event in self._sent.events[-2000:]
            if event.accepted_at is not None and not (event.invalid or event.on_the_bus)
        ]
        if known:
            event = self._make()
            body = msgspec.json.decode(event.body) | {"event_id": self._rng.choice(known).event_id}
            await self._expect(409, msgspec.json.encode(body), JSON)

    async def _wrong_key(self) -> None:
        await self._expect(401, self._make().body, JSON, secret="tocsin_producer_" + uuid.uuid4().hex)

    def _make(self) -> SentEvent:
        event = self._sent.make(self._rng.choice(self._users).owner, self._rng, with_id=False)
        event.invalid = True
        return event

    async def _expect(self, status: int, body: bytes, kind: str, *, secret: str = "") -> None:
        try:
            response = await self._client.call("POST", PATH, body, kind, secret=secret)
        except NoResponse:
            return
        self._sent.count(f"responses {response.status}")
        if response.status not in (status, 503):
            self._sent.wrong_responses.append(f"expected {status}: {response.status} {response.body[:300]!r}")
