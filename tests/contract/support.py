"""What the contract is checked with: events and devices to store, settlements, claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from uuid import UUID

from tests.support.clocks import Clocks
from tests.support.sqlite import LEASE_S

from tocsin.domain.devices import Address, Device, DeviceToken, Registration
from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.ports import Store
from tocsin.store.records import Attempt, Item, Parked, Result, Retention, Settlement

__all__ = ["LEASE_S"]

OWNER = UserId("9aed5e94-3803-11e3-8475-0024e8f90cc0")
OTHER_OWNER = UserId("55555555-3803-11e3-8475-0024e8f90cc0")
LANE, OTHER_LANE = "apns:production:39JSDKGJ38.de.cospace.app", "fcm:main"
ACCOUNT = "39JSDKGJ38.de.cospace.app"
DAY_MS = 24 * 3600 * 1000
EVERYTHING = {LANE: 10_000, OTHER_LANE: 10_000}
TOKEN = DeviceToken("a")

SAME_KEY = (UserId("c6f812af-94a3-4d21-a18f-418459b452cb"), UserId("7bf4afd0-42b6-4f51-85ae-b47e476d2ea1"))
"""Two owners whose CRC-32 is the same."""

_numbers = count(1)


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


async def claim(store: Store, limit: int, lanes: Mapping[str, int]) -> list[Item]:
    """What is new, and of each lane what is due."""
    items = await store.queue.claim(limit)
    return items + (await store.schedule.claim_due(lanes) if lanes else [])


def registration(
    token: str, *, owner: UserId = OWNER, provider: str = "apns", address: str = "application=x"
) -> Registration:
    return Registration(owner, provider, DeviceToken(token), Address(address))


async def device_of(store: Store, token: str, *, owner: UserId = OWNER, provider: str = "apns") -> Device:
    """The registration as it is now."""
    devices = (await store.registry.devices_of([owner]))[owner]
    return next(device for device in devices if (device.token, device.provider) == (token, provider))


async def register(
    store: Store,
    token: str,
    *,
    owner: UserId = OWNER,
    provider: str = "apns",
    address: str = "application=x",
    max_tokens: int = 100,
) -> Device:
    """Register a token; returns the registration."""
    await store.registry.add(registration(token, owner=owner, provider=provider, address=address), max_tokens)
    return await device_of(store, token, owner=owner, provider=provider)


def attempt(
    device: str, result: Result = Result.DELIVERED, *, lane: str = LANE, at_ms: int = 0, number: int = 1
) -> Attempt:
    status = 200 if result is Result.DELIVERED else 400
    return Attempt(at_ms, device, lane, str(result), status, "", "", None, 0, number)


def done(item: Item, result: Result = Result.DELIVERED, device: str = "apns:a") -> Settlement:
    """The item as settled for good."""
    return Settlement(item, [attempt(device, result, lane=item.lane or LANE)], [])


def parked(item: Item, due_ms: int, *, lane: str = LANE, targets: tuple[str, ...] = ("apns:a",)) -> Settlement:
    return Settlement(
        item,
        [attempt(target, Result.RETRY, lane=lane, number=item.tries + 1) for target in targets],
        [Parked(lane, due_ms, item.tries + 1, targets)],
    )


def keep(events_s: float, removals_s: float, dead_letters_s: float | None = None) -> Retention:
    """Dead letters as long as other events, unless it is said."""
    if dead_letters_s is None:
        dead_letters_s = events_s
    return Retention(events_s=events_s, dead_letters_s=dead_letters_s, removals_s=removals_s)


def ids(items: Iterable[Item]) -> list[str]:
    return [item.event.id for item in items]
