"""The platform's backends: they hand in events as fast as was asked for, cut their connections, and try again."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable

import msgspec

from tests.torture.ledger import HandedIn, Ledger
from tests.torture.people import User
from tests.torture.wire import Answer, Client, NoAnswer

PATH = "/api/events"
JSON, NDJSON = "application/json", "application/x-ndjson"
_CUT = 0.03
_REPEAT = 0.03


class Pace:
    """How many events should have been handed in by now; `flooding` is without regard to it."""

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


class Producer:
    """One connection of one backend."""

    def __init__(
        self, client: Client, users: list[User], ledger: Ledger, pace: Pace, dice: random.Random, until: float
    ) -> None:
        self._client = client
        self._users = users
        self._ledger = ledger
        self._pace = pace
        self._dice = dice
        self._until = until

    async def run(self, most: int, *, with_id: bool) -> None:
        """Batches of up to `most` events (1: single events) until all are handed in."""
        last: list[HandedIn] = []
        while not self._pace.finished:
            if with_id and last and self._dice.random() < _REPEAT:
                self._ledger.note("handed in again after its 202", len(last))
                await self._hand_in(last, many=most > 1)
            count = self._pace.take(self._dice.randint(1, most))
            if not count:
                await asyncio.sleep(0.01)
                continue
            events = [
                self._ledger.make(self._dice.choice(self._users).owner, self._dice, with_id=with_id)
                for _ in range(count)
            ]
            await self._hand_in(events, many=most > 1)
            last = events if events[0].accepted is not None else []
        self._client.close()

    async def _hand_in(self, events: list[HandedIn], *, many: bool) -> None:
        """Try until it is answered. What has no id of its own is not tried again where its fate is unknown."""
        body, kind = (b"\n".join(event.body for event in events), NDJSON) if many else (events[0].body, JSON)
        repeatable = events[0].event_id is not None
        for event in events:
            event.sent = event.sent or time.time()
        while time.time() < self._until:
            try:
                if self._dice.random() < _CUT:
                    self._ledger.note("connections cut by the producer")
                    await self._client.call_and_cut("POST", PATH, body, kind, self._dice)
                answer = await self._client.call("POST", PATH, body, kind)
            except NoAnswer as failure:
                self._ledger.note("hand-ins without an answer")
                if failure.sent:
                    for event in events:
                        event.unanswered = True
                    if not repeatable:
                        return
                await asyncio.sleep(self._dice.random() * 0.2)
                continue
            self._ledger.note(f"answers {answer.status}")
            if answer.status == 202:
                self._ledger.accepted(events, answer.json()["events"])
                return
            if answer.status != 503:
                self._ledger.wrong.append(f"a good hand-in was answered {answer.status}: {answer.body[:300]!r}")
                return
            if self._dice.random() < 0.2:
                return  # given up: it was refused, and must not arrive
            await asyncio.sleep(min(float(answer.headers.get("retry-after", 1)), 0.5) * self._dice.random())


class BadProducer:
    """Hands in what must be refused, all the time."""

    def __init__(self, client: Client, users: list[User], ledger: Ledger, dice: random.Random) -> None:
        self._client = client
        self._users = users
        self._ledger = ledger
        self._dice = dice

    async def run(self, finished: Callable[[], bool]) -> None:
        while not finished():
            await self._dice.choice((self._one_bad_line, self._conflict, self._wrong_key))()
            await asyncio.sleep(0.1 + self._dice.random() * 0.2)
        self._client.close()

    async def _one_bad_line(self) -> None:
        events = [self._make() for _ in range(self._dice.randint(1, 20))]
        lines = [event.body for event in events]
        lines.insert(self._dice.randint(0, len(lines)), b'{"message":"fax_new","owner":"nobody"}')
        await self._expect(400, b"\n".join(lines), NDJSON)

    async def _conflict(self) -> None:
        """The id of an event that is on record, with other content."""
        known = [event for event in self._ledger.events[-2000:] if event.accepted is not None and not event.invalid]
        if known:
            event = self._make()
            body = msgspec.json.decode(event.body) | {"event_id": self._dice.choice(known).event_id}
            await self._expect(409, msgspec.json.encode(body), JSON)

    async def _wrong_key(self) -> None:
        await self._expect(401, self._make().body, JSON, secret="tocsin_producer_" + uuid.uuid4().hex)

    def _make(self) -> HandedIn:
        event = self._ledger.make(self._dice.choice(self._users).owner, self._dice, with_id=False)
        event.invalid = True
        return event

    async def _expect(self, status: int, body: bytes, kind: str, *, secret: str = "") -> None:
        try:
            answer: Answer = await self._client.call("POST", PATH, body, kind, secret=secret)
        except NoAnswer:
            return
        self._ledger.note(f"answers {answer.status}")
        if answer.status not in (status, 503):
            self._ledger.wrong.append(f"expected {status}, was answered {answer.status}: {answer.body[:300]!r}")
