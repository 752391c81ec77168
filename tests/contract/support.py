"""What the contract is checked with: events and devices to store, clocks to turn, stores to open, crash and reopen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from uuid import UUID

from tocsin.domain.devices import Device, System
from tocsin.domain.events import Event, EventId, UserId, digest
from tocsin.store.opening import Store, open_store
from tocsin.store.ports import Attempt, Item, NewEvent, Parked, Result, Settlement

OWNER = UserId("9aed5e94-3803-11e3-8475-0024e8f90cc0")
OTHER_OWNER = UserId("55555555-3803-11e3-8475-0024e8f90cc0")
LANE, OTHER_LANE = "apns:production:39JSDKGJ38.de.cospace.app", "fcm:main"
APPLICATION = "39JSDKGJ38.de.cospace.app"
DAY_MS = 24 * 3600 * 1000
LEASE_S = 30.0
EVERYTHING = {LANE: 10_000, OTHER_LANE: 10_000}

_numbers = count(1)


class Clocks:
    """The wall's and the monotonic one, standing still until they are told to go."""

    def __init__(self) -> None:
        self.wall_s = 1_800_000_000.0
        self.monotonic_s = 1000.0

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    @property
    def now_ms(self) -> int:
        return int(self.wall_s * 1000)

    def pass_time(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def set_wall_clock(self, *, by_s: float) -> None:
        self.wall_s += by_s


class SqliteStores:
    """Stores on one SQLite file. A crash is a copy of the file and its log, opened while the first still stands."""

    def __init__(self, directory: Path, clocks: Clocks, life: AsyncExitStack) -> None:
        self._directory = directory
        self._life = life
        self._opened: dict[Path, AsyncExitStack] = {}
        self.clocks = clocks
        self.path = directory / "0" / "tocsin.db"
        self._copies = 0

    async def open(
        self, *, max_events: int = 1_000_000, max_bytes: int = 1 << 40, lease_s: float = LEASE_S, server: bool = True
    ) -> Store:
        """The server's store, or with `server` false what another process (the CLI) opens beside it."""
        opening = open_store(
            self.path,
            max_events=max_events,
            max_bytes=max_bytes,
            lease_s=lease_s,
            exclusive=server,
            wall_clock=self.clocks.wall,
            monotonic=self.clocks.monotonic,
        )
        stack = await self._life.enter_async_context(AsyncExitStack())
        store = await stack.enter_async_context(opening)
        if server:
            await store.queue.start()
            self._opened[self.path] = stack
        return store

    async def close(self) -> None:
        await self._opened.pop(self.path).aclose()

    async def reopen(self, **options: int) -> Store:
        """After an orderly end."""
        await self.close()
        return await self.open(**options)

    async def crash(self, **options: int) -> Store:
        """After a kill: nothing was closed, and all that is left is what was written."""
        self._copies += 1
        target = self._directory / str(self._copies)
        target.mkdir()
        for suffix in ("", "-wal"):
            left = self.path.with_name(self.path.name + suffix)
            if left.exists():
                shutil.copy(left, target / left.name)
        self.path = target / self.path.name
        return await self.open(**options)


STORES: dict[str, Callable[[Path, Clocks, AsyncExitStack], SqliteStores]] = {"sqlite": SqliteStores}
"""Every store that must pass."""


def new_id() -> EventId:
    return EventId(str(UUID(int=next(_numbers), version=4)))


def make_event(
    clocks: Clocks,
    *,
    id: str | None = None,
    owner: UserId = OWNER,
    urgent: bool = False,
    lives_s: float = 28 * 24 * 3600,
    padding: int = 0,
) -> Event:
    message = "dialplan_callreverse_start" if urgent else "fax_new"
    body = f'{{"owner":"{owner}","message":"{message}","phone":"{"0" * padding}"}}'.encode()
    now_ms = clocks.now_ms
    return Event(EventId(id) if id else new_id(), owner, message, now_ms, now_ms + int(lives_s * 1000), body)


def new(event: Event) -> NewEvent:
    """An event whose id is tocsin's own."""
    return NewEvent(event)


def handed_in(event: Event) -> NewEvent:
    """An event whose id the producer chose."""
    return NewEvent(event, digest(event.body))


SAME_KEY = (UserId("c6f812af-94a3-4d21-a18f-418459b452cb"), UserId("7bf4afd0-42b6-4f51-85ae-b47e476d2ea1"))
"""Two owners whose CRC-32 is the same."""


def make_device(
    token: str, *, owner: UserId = OWNER, system: System = System.APNS, registered_us: int = 1_000_000
) -> Device:
    application = APPLICATION if system is System.APNS else None
    return Device(owner, str(system), token, application, False, None, registered_us)


def attempt(device: str, result: Result = Result.DELIVERED, *, lane: str = LANE, at_ms: int = 0) -> Attempt:
    return Attempt(at_ms, device, lane, str(result), 200 if result is Result.DELIVERED else 400, "", "")


def done(item: Item, result: Result = Result.DELIVERED, device: str = "apns:a") -> Settlement:
    """The item as settled for good."""
    return Settlement(item, [attempt(device, result, lane=item.lane or LANE)], [])


def parked(item: Item, due_ms: int, *, lane: str = LANE, targets: tuple[str, ...] = ("apns:a",)) -> Settlement:
    return Settlement(
        item,
        [attempt(target, Result.RETRY, lane=lane) for target in targets],
        [Parked(lane, due_ms, item.tries + 1, targets)],
    )


def ids(items: Iterable[Item]) -> list[str]:
    return [item.event.id for item in items]
