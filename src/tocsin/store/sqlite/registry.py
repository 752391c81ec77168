"""Registry on SQLite: who has which devices, what became of those that are gone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress
from random import Random
from typing import Any, Final, TypeVar
from zlib import crc32

import msgspec
from msgspec.structs import replace

from tocsin.domain.devices import Device, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.store.audit_chain import Action, Change
from tocsin.store.cursors import number_of
from tocsin.store.known import KnownDevices
from tocsin.store.ports import EachStep
from tocsin.store.records import (
    Cursor,
    DeadToken,
    DevicePage,
    Learned,
    Quarantine,
    QuarantineChanged,
    Removal,
    RemovalPage,
    Signal,
    TokenDeleted,
    TokenRegistered,
    TokenRestored,
    TopicReached,
)
from tocsin.store.registrations import (
    BY_ITS_USER,
    BY_THE_OPERATOR,
    EVICTED,
    dead_registrations,
    deleted,
    device_change,
    registered_by_somebody,
    registered_us,
    too_many,
)
from tocsin.store.sqlite import quarantine, removals, rows, topics
from tocsin.store.sqlite.audit import SqliteAudit
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.quarantine import Held, Step
from tocsin.store.sqlite.signals import SqliteSignals

T = TypeVar("T")

_NEWEST: Final = 2**62
_OF_A_REGISTRATION: Final = "owner, provider, token, address, registered_us, generation"
_COLUMNS: Final = f"{_OF_A_REGISTRATION}, last_success_ms"
_DEVICE_JSON: Final = (
    f"json_array({', '.join('device.' + column for column in _COLUMNS.split(', '))}, json(device.complaint))"
)

# A device's row id is its owner's key and a number: the devices of an owner lie side by side, and an integer finds
# them, with half the page reads that the owner as the key takes. Owners may share a key; the rows tell them apart.
_ROWS_OF_A_KEY: Final = 2**31
_ITS_ROWS: Final = f"BETWEEN {{key}} AND {{key}} + {_ROWS_OF_A_KEY - 1}"

_OF_OWNERS: Final = (
    f"SELECT json_group_array({_DEVICE_JSON}) FROM json_each(?) AS key "
    f"CROSS JOIN device ON device.id {_ITS_ROWS.format(key='key.value')}"
)
_PAGE: Final = (
    f"SELECT json_group_array({_DEVICE_JSON}), max(id)"
    f" FROM (SELECT id, {_COLUMNS}, complaint FROM device WHERE id > ? ORDER BY id LIMIT ?) AS device"
)
_OF_ITS_KEY: Final = f"FROM device WHERE id {_ITS_ROWS.format(key='?1')}"
_INSERT: Final = f"""INSERT INTO device(id, {_COLUMNS})
    SELECT (SELECT coalesce(max(id) + 1, ?1) {_OF_ITS_KEY}), ?2, ?3, ?4, ?5, ?6, ?7, NULL
    WHERE {{condition}} ON CONFLICT(token, provider, owner) DO """
_REGISTER: Final = (
    _INSERT.format(condition="TRUE")
    + "UPDATE SET address = ?5, registered_us = ?6, generation = ?7, last_success_ms = NULL, complaint = NULL"
)
# A token registered again since is as its user wants it: it is left alone.
_BRING_BACK: Final = _INSERT.format(condition=f"(SELECT count(*) {_OF_ITS_KEY} AND owner = ?2) < ?8") + "NOTHING"
# Several of an owner in one statement: it sees the table as it was before.
_BRING_SEVERAL_BACK: Final = f"""WITH back(key, {_OF_A_REGISTRATION}) AS (VALUES {{rows}})
    INSERT INTO device(id, {_OF_A_REGISTRATION}) SELECT
        coalesce((SELECT max(id) FROM device WHERE id {_ITS_ROWS.format(key="back.key")}), back.key - 1)
            + row_number() OVER (PARTITION BY back.key),
        {_OF_A_REGISTRATION}
    FROM back"""
# Not by the index of tokens: the rows themselves were read a moment ago, to reach these devices.
_LEARN: Final = f"""WITH learned(key, owner, provider, token, generation, address, success_ms, complaint)
        AS (VALUES {{rows}})
    UPDATE device NOT INDEXED SET
        address = coalesce(learned.address, device.address),
        last_success_ms = coalesce(learned.success_ms, last_success_ms),
        complaint = iif(learned.success_ms IS NULL, coalesce(learned.complaint, device.complaint), NULL)
    FROM learned
    WHERE device.id {_ITS_ROWS.format(key="learned.key")} AND device.owner = learned.owner
        AND device.provider = learned.provider AND device.token = learned.token
        AND device.generation = learned.generation"""

_LEARNED_AT_ONCE: Final = 2000
_DAY_MS: Final = 24 * 3600 * 1000

_decode_devices = msgspec.json.Decoder(list[Device]).decode
_encode = msgspec.json.Encoder().encode


class SqliteRegistry:
    """See `ports.Registry`."""

    def __init__(
        self,
        database: Database,
        signals: SqliteSignals,
        audit: SqliteAudit,
        *,
        wall_clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._database = database
        self._audit = audit
        self._signals = signals
        self._wall_clock = wall_clock
        self._random = random
        self._known = KnownDevices(random=random.random)
        self._newest_us = 0
        self._to_look_up: list[UserId] = []
        self._looking_up: asyncio.Future[dict[UserId, list[Device]]] | None = None

    def forget(self) -> None:
        """Another process has changed the file."""
        self._known.forget_all()

    # -- registering and deleting --------------------------------------------------------------------------------------

    async def add(self, registration: Registration, max_tokens: int) -> list[Device]:
        return await self.add_many([registration], max_tokens)

    async def add_many(self, registrations: Sequence[Registration], max_tokens: int) -> list[Device]:
        self._database.refuse_if_damaged()
        note = self._audit.recording()

        def add(driver: sqlite3.Connection) -> tuple[list[Device], list[Signal]]:
            evicted: list[Device] = []
            signals: list[Signal] = []
            for registration in registrations:
                old = self._register(driver, registration, max_tokens)
                evicted += old
                told = TokenRegistered(registration.owner, registration.provider, registration.token)
                signals += [told, *map(deleted, old)]
            if registrations and note is not None:
                note(driver, registered_by_somebody(registrations))
            return evicted, signals

        return await self._change(add, lambda _: [registration.owner for registration in registrations])

    def _register(self, driver: sqlite3.Connection, registration: Registration, max_tokens: int) -> list[Device]:
        """Register one; returns what was evicted."""
        owner = registration.owner
        device = Device(
            owner, registration.provider, registration.token, registration.address, self._next_us(), self._number()
        )
        driver.execute(_REGISTER, _values(device))
        (count,) = driver.execute(f"SELECT count(*) {_OF_ITS_KEY}", (_key(owner),)).fetchone()
        if count <= max_tokens:
            return []
        registered = _by_owner(_text_of(driver, [owner])).get(owner, [])
        evicted = too_many(registered, device.key, max_tokens)
        for old in evicted:
            self._remove(driver, old, EVICTED)
        return evicted

    async def delete(self, owner: UserId, provider: str, token: DeviceToken, *, by_operator: bool = False) -> bool:
        self._database.refuse_if_damaged()

        by = BY_THE_OPERATOR if by_operator else BY_ITS_USER
        note = self._audit.recording()

        def delete(driver: sqlite3.Connection) -> tuple[bool, list[Signal]]:
            found = _select(driver, "owner = ? AND provider = ? AND token = ?", (owner, provider, token))
            # What is gone already must not come back to a user who has deleted it.
            accounts = removals.end(driver, owner, provider, token, by)
            for device in found:
                self._remove(driver, device, by)
            if found and note is not None:
                note(driver, device_change(Action.DEVICE_DELETE, provider, token, owner=owner))
            signals: list[Signal] = [QuarantineChanged(account) for account in sorted(accounts)]
            # Signalled in any case: another process may have removed it a moment ago, without everybody knowing yet.
            return bool(found), [TokenDeleted(owner, provider, token), *signals]

        return await self._change(delete, lambda _: [owner])

    # -- what delivery asks and tells ----------------------------------------------------------------------------------

    async def devices_of(self, owners: Sequence[UserId]) -> dict[UserId, list[Device]]:
        """From memory where they are known. Look-ups that are made while another is on its way share one statement."""
        found, unknown = self._known.find(owners)
        if unknown:
            self._to_look_up += unknown
            if self._looking_up is None:
                self._looking_up = asyncio.ensure_future(self._look_up())
            looked_up = await asyncio.shield(self._looking_up)
            found |= {owner: looked_up[owner] for owner in unknown if owner in looked_up}
        return found

    async def _look_up(self) -> dict[UserId, list[Device]]:
        owners, self._to_look_up, self._looking_up = self._to_look_up, [], None
        since = self._known.look_up_begins()
        found: dict[UserId, list[Device]] | None = None
        try:
            # Decoded here: what the reader's thread made would lie in the other core's cache.
            found = _by_owner(await self._database.read(lambda driver: _text_of(driver, owners)))
        finally:
            self._known.look_up_ends(since, owners, found)
        return found

    async def remove_dead(self, tokens: Sequence[DeadToken], *, quarantine: bool = False) -> list[bool]:
        def remove(driver: sqlite3.Connection) -> tuple[tuple[list[bool], list[Device]], list[Signal]]:
            kept: list[bool] = []
            removed: list[Device] = []
            for dead in tokens:
                found = _select(driver, "token = ? AND provider = ?", (dead.device.token, dead.device.provider))
                gone = dead_registrations(dead, found)
                for device in gone:
                    self._remove(driver, device, dead.reason, dead.account, quarantined=quarantine)
                removed += gone
                kept.append(any(device.owner == dead.device.owner and device not in gone for device in found))
            signals: list[Signal] = [deleted(device) for device in removed]
            if quarantine and removed:
                signals += [QuarantineChanged(account) for account in dict.fromkeys(dead.account for dead in tokens)]
            return (kept, removed), signals

        kept, _ = await self._change(remove, lambda done: [device.owner for device in done[1]])
        return kept

    async def learn(self, learned: Sequence[Learned]) -> None:
        # In the table's order: the page of those who lie on one is written once.
        in_order = sorted(learned, key=lambda one: _key(one.device.owner))
        for first in range(0, len(in_order), _LEARNED_AT_ONCE):
            await self._learn(in_order[first : first + _LEARNED_AT_ONCE])

    async def _learn(self, learned: Sequence[Learned]) -> None:
        values = [
            (
                _key(one.device.owner),
                one.device.owner,
                one.device.provider,
                one.device.token,
                one.device.generation,
                one.address,
                one.success_ms,
                None if one.complaint is None else _encode(one.complaint).decode(),
            )
            for one in learned
        ]

        def learn(driver: sqlite3.Connection) -> tuple[None, list[Signal]]:
            rows.execute(driver, _LEARN, values)
            return None, []

        await self._change(learn, lambda _: [one.device.owner for one in learned])

    async def note_topics(self, reached: Sequence[TopicReached]) -> None:
        await self._database.write(lambda driver: topics.note(driver, reached))

    async def topics(self) -> list[TopicReached]:
        return await self._database.read(topics.read)

    async def quarantine_complaining(self, days: int, limit: int) -> list[Device]:
        self._database.refuse_if_damaged()

        def quarantine(driver: sqlite3.Connection) -> tuple[list[Device], list[Signal]]:
            found = _select(driver, topics.UNFIT, (days * _DAY_MS, limit))
            for device in found:
                assert device.complaint is not None
                reason, account = device.complaint.lasting(days), device.complaint.account
                self._remove(driver, device, reason, account, quarantined=True, for_topic=True)
            accounts = dict.fromkeys(device.complaint.account for device in found if device.complaint is not None)
            return found, [*map(deleted, found), *map(QuarantineChanged, accounts)]

        return await self._change(quarantine, lambda found: [device.owner for device in found])

    # -- what the operator asks ----------------------------------------------------------------------------------------

    async def page(self, limit: int, *, start: Cursor | None = None) -> DevicePage:
        after = -1 if start is None else number_of(start)

        def read(driver: sqlite3.Connection) -> DevicePage:
            text, last = driver.execute(_PAGE, (after, limit)).fetchone()
            devices = _decode_devices(text)
            return DevicePage(devices, Cursor(str(last)) if len(devices) == limit else None)

        return await self._database.read(read)

    async def find(self, token: DeviceToken) -> list[Device]:
        return await self._database.read(lambda driver: _select(driver, "token = ?", (token,)))

    async def history(
        self, *, owner: UserId | None = None, token: DeviceToken | None = None, quarantined_only: bool = False
    ) -> list[Removal]:
        return await self._database.read(
            lambda driver: removals.read(driver, owner=owner, token=token, quarantined_only=quarantined_only)
        )

    async def removals(self, limit: int, *, start: Cursor | None = None) -> RemovalPage:
        first = _NEWEST if start is None else number_of(start)
        found, after = await self._database.read(lambda driver: removals.page(driver, first, limit))
        return RemovalPage(found, None if after is None else Cursor(str(after)))

    async def restore(self, provider: str, token: DeviceToken, max_tokens: int) -> int:
        note = self._audit.recording()

        def restore(driver: sqlite3.Connection, put_back: Callable[[Device], bool]) -> tuple[list[Device], set[str]]:
            back, accounts = removals.restore(driver, provider, token, put_back)
            if back and note is not None:
                note(driver, device_change(Action.DEVICE_RESTORE, provider, token, registrations=len(back)))
            return back, accounts

        return await self._bring_back(restore, max_tokens)

    async def quarantine(self) -> list[Quarantine]:
        return await self._database.read(quarantine.counted)

    async def quarantined_accounts(self, *, by_fuse: bool = False) -> list[tuple[str, str]]:
        return await self._database.read(quarantine.accounts_by_fuse if by_fuse else quarantine.accounts)

    async def release_quarantine(self, account: str, max_tokens: int, each: EachStep | None = None) -> int:
        def release(driver: sqlite3.Connection, held: Held) -> Step:
            return quarantine.release(driver, held, lambda devices: self._put_back(driver, devices, max_tokens))

        return await self._end_quarantine(account, release, Action.QUARANTINE_RELEASE, each)

    async def purge_quarantine(self, account: str, each: EachStep | None = None) -> int:
        return await self._end_quarantine(account, quarantine.purge, Action.QUARANTINE_PURGE, each)

    async def _end_quarantine(
        self, account: str, take: Callable[[sqlite3.Connection, Held], Step], action: Action, each: EachStep | None
    ) -> int:
        """Take one step after the other, each in a transaction of its own: others write in between."""
        self._database.refuse_if_damaged()
        note = self._audit.recording()

        def change(driver: sqlite3.Connection, held: Held) -> tuple[Step, list[Signal]]:
            step = take(driver, held)
            if step.ended and note is not None:
                note(driver, Change(action, f"{held.provider}:{account}", {"registrations": step.ended}))
            return step, [TokenRestored(device.owner, device.provider, device.token) for device in step.back]

        ended, goes_on = 0, True
        for held in await self._database.read(lambda driver: quarantine.held_of(driver, account)):
            more = True
            while more and goes_on:
                step = await self._change(partial(change, held=held), lambda step: [one.owner for one in step.back])
                ended, more = ended + step.ended, step.more
                goes_on = each is None or await each(step.ended)
                await asyncio.sleep(quarantine.PAUSE_S if more else 0)
        # The fuse is looked at when it is over; also where it was over before, and nobody was told.
        await self._change(lambda _: (None, [QuarantineChanged(account)]), lambda _: [])
        return ended

    def _put_back(self, driver: sqlite3.Connection, devices: Sequence[Device], max_tokens: int) -> list[bool]:
        """Register those that their owners have room for, in this order; whether each is."""
        registered = _by_owner(_text_of(driver, {device.owner for device in devices}))
        taken = Counter({owner: len(own) for owner, own in registered.items()})
        are_back: list[bool] = []
        for device in devices:
            are_back.append(taken[device.owner] < max_tokens)
            taken[device.owner] += are_back[-1]
        back = [replace(device, generation=self._number()) for device in compress(devices, are_back)]
        rows.execute(driver, _BRING_SEVERAL_BACK, [_values(device) for device in back])
        return are_back

    async def _bring_back(
        self,
        bring_back: Callable[[sqlite3.Connection, Callable[[Device], bool]], tuple[list[Device], set[str]]],
        max_tokens: int,
    ) -> int:
        """`bring_back` gets what puts one registration back, within `max_tokens` of its owner. It returns what is back,
        and the accounts whose quarantine has changed."""
        self._database.refuse_if_damaged()

        def restore(driver: sqlite3.Connection) -> tuple[list[Device], list[Signal]]:
            def put_back(device: Device) -> bool:
                again = replace(device, generation=self._number())
                return driver.execute(_BRING_BACK, (*_values(again), max_tokens)).rowcount == 1

            back, accounts = bring_back(driver, put_back)
            told = [TokenRestored(device.owner, device.provider, device.token) for device in back]
            return back, [*told, *(QuarantineChanged(account) for account in sorted(accounts))]

        back = await self._change(restore, lambda back: [device.owner for device in back])
        return len(back)

    # -- within --------------------------------------------------------------------------------------------------------

    async def _change(
        self,
        change: Callable[[sqlite3.Connection], tuple[T, list[Signal]]],
        owners: Callable[[T], Iterable[UserId]],
    ) -> T:
        """Write; whoever asks after the commit looks up anew what it has changed of `owners`, and it is signalled."""

        def write(driver: sqlite3.Connection) -> tuple[T, list[Signal]]:
            result, signals = change(driver)
            self._signals.write(driver, signals)
            return result, signals

        async def write_and_tell() -> T:
            # Told in the order of the commits, also beside what is noticed of other processes: nothing else may be
            # awaited between the commit and the signals.
            result, signals = await self._database.write(write)
            self._known.forget(owners(result))
            self._signals.publish(signals)
            return result

        # Whether or not the caller gives up meanwhile: the commit is made.
        return await asyncio.shield(asyncio.ensure_future(write_and_tell()))

    def _remove(
        self,
        driver: sqlite3.Connection,
        device: Device,
        reason: str,
        account: str = "",
        *,
        quarantined: bool = False,
        for_topic: bool = False,
    ) -> None:
        now_ms = int(self._wall_clock() * 1000)
        removals.remember(driver, device, now_ms, reason, account, quarantined=quarantined, for_topic=for_topic)
        key = (device.owner, device.provider, device.token)
        driver.execute("DELETE FROM device WHERE owner = ? AND provider = ? AND token = ?", key)

    def _next_us(self) -> int:
        """The time, later than at every registration before, so that their order is never lost."""
        self._newest_us = max(int(self._wall_clock() * 1_000_000), self._newest_us + 1)
        return self._newest_us

    def _number(self) -> int:
        """For a generation. Within what every reader of JSON takes for an integer."""
        return self._random.getrandbits(53)


def _values(device: Device) -> tuple[Any, ...]:
    return (
        _key(device.owner),
        device.owner,
        device.provider,
        device.token,
        device.address,
        device.registered_us,
        device.generation,
    )


def _select(driver: sqlite3.Connection, where: str, parameters: tuple[Any, ...]) -> list[Device]:
    (text,) = driver.execute(
        f"SELECT json_group_array({_DEVICE_JSON}) FROM (SELECT * FROM device WHERE {where}) AS device", parameters
    ).fetchone()
    return _decode_devices(text)


def _key(owner: UserId) -> int:
    return crc32(owner.encode()) * _ROWS_OF_A_KEY


def _text_of(driver: sqlite3.Connection, owners: Iterable[UserId]) -> str:
    """The devices of these owners, and of those who share a key with one of them."""
    # In the table's order, so that what lies together is read together.
    keys = sorted({_key(owner) for owner in owners})
    text: str
    (text,) = driver.execute(_OF_OWNERS, (_encode(keys).decode(),)).fetchone()
    return text


def _by_owner(text: str) -> dict[UserId, list[Device]]:
    found: dict[UserId, list[Device]] = {}
    several: set[UserId] = set()
    for device in _decode_devices(text):
        owner = device.owner
        if owner in found:
            found[owner].append(device)
            several.add(owner)
        else:
            found[owner] = [device]
    for owner in several:
        found[owner].sort(key=registered_us)
    return found
