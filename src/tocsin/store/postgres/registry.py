"""Registry on PostgreSQL: who has which devices, what became of those that are gone.

Every change is written twice in its transaction: as a mark in the owner's log, where an event that follows finds it,
and as a signal, which does not wait behind a backlog.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import compress
from random import Random
from typing import Any, Final, TypeVar
from zlib import crc32

import msgspec
from msgspec.structs import replace

from tocsin.domain.devices import Address, Complaint, Device, DeviceToken, Registration
from tocsin.domain.events import UserId
from tocsin.store.audit_chain import Action, Change
from tocsin.store.cursors import number_of
from tocsin.store.known import KnownDevices
from tocsin.store.ports import EachStep
from tocsin.store.postgres import marks, partitions, quarantine, removals, topics
from tocsin.store.postgres.audit import PostgresAudit
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.places import DAY_MS, log_of
from tocsin.store.postgres.quarantine import Held, Step
from tocsin.store.postgres.removals import Gone
from tocsin.store.postgres.schema import LOCK_SPACE
from tocsin.store.postgres.signals import PostgresSignals, encoded
from tocsin.store.postgres.wakes import Wakes
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

T = TypeVar("T")

_LEARNED_AT_ONCE: Final = 2000
_OWNER_LOCKS: Final = 256
"""Owners share so many locks: a bulk action does not exhaust those of the server."""
_LOCK_OWNERS: Final = f"SELECT pg_advisory_xact_lock({LOCK_SPACE + 1}, key) FROM unnest($1::int[]) AS owners(key)"

_COLUMNS: Final = "owner::text, provider, token, address, registered_us, generation, last_success_ms, complaint"
_OF_OWNERS: Final = f"SELECT {_COLUMNS} FROM device WHERE owner = ANY($1::uuid[]) ORDER BY registered_us"
_OF_TOKEN: Final = f"SELECT {_COLUMNS} FROM device WHERE token = $1"
_OF_TOKENS: Final = f"""SELECT {_COLUMNS} FROM device JOIN unnest($1::text[], $2::text[]) AS t(token, provider)
    USING (token, provider)"""
_PAGE: Final = f"SELECT {_COLUMNS}, id FROM device WHERE id > $1 ORDER BY id LIMIT $2"
_ONE: Final = f"SELECT {_COLUMNS} FROM device WHERE owner = $1 AND provider = $2 AND token = $3"
_INSERT: Final = """INSERT INTO device(owner, provider, token, address, registered_us, generation)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
    ON CONFLICT (owner, provider, token) DO """
_REGISTER: Final = (
    _INSERT + "UPDATE SET address = excluded.address, registered_us = excluded.registered_us,"
    " generation = excluded.generation, last_success_ms = NULL, complaint = NULL"
)
# A token registered again since is as its user wants it: it is left alone.
_BRING_BACK: Final = _INSERT + "NOTHING RETURNING owner::text, provider, token"
_DELETE: Final = """DELETE FROM device USING unnest($1::uuid[], $2::text[], $3::text[]) AS t(owner, provider, token)
    WHERE device.owner = t.owner AND device.provider = t.provider AND device.token = t.token"""
# In the order of the key: two that learn at once wait for each other, and do not deadlock. The rows are looked up one
# by one (LATERAL): joined as sets, 2,000 would be compared with each other, by a plan that is made for ten.
_LEARN: Final = """WITH locked AS MATERIALIZED (
        SELECT learned.*, device.id FROM (
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::text[])
                AS t(owner, provider, token, generation, address, success_ms, complaint)
            ORDER BY owner, provider, token
        ) AS learned CROSS JOIN LATERAL (
            SELECT id FROM device WHERE device.owner = learned.owner AND device.provider = learned.provider
                AND device.token = learned.token AND device.generation = learned.generation FOR UPDATE
        ) AS device
    )
    UPDATE device SET address = coalesce(locked.address, device.address),
        last_success_ms = coalesce(locked.success_ms, device.last_success_ms),
        complaint = CASE WHEN locked.success_ms IS NULL THEN coalesce(locked.complaint, device.complaint) END
    FROM locked WHERE device.id = locked.id"""


_encode = msgspec.json.Encoder().encode
_decode_complaint = msgspec.json.Decoder(Complaint).decode


class PostgresRegistry:
    """See `ports.Registry`."""

    def __init__(
        self,
        database: Database,
        signals: PostgresSignals,
        wakes: Wakes,
        clock: DatabaseClock,
        random: Random,
        delivers: Callable[[int], bool],
        audit: PostgresAudit,
    ) -> None:
        self._database = database
        self._signals = signals
        self._wakes = wakes
        self._clock = clock
        self._random = random
        self._audit = audit
        self._delivers = delivers
        """Whether this node holds a log: only of its owners it remembers the devices."""
        self._known = KnownDevices(random=random.random)
        self._newest_us = 0
        self._to_look_up: list[UserId] = []
        self._looking_up: asyncio.Future[dict[UserId, list[Device]]] | None = None
        signals.when_elsewhere(self._changed_elsewhere)

    def changed(self, owners: Iterable[UserId]) -> None:
        """The devices of these have changed, by whichever process."""
        self._known.forget(owners)

    def forget(self) -> None:
        """Nothing that is remembered is certain any more: changes may have been missed, or logs have come or gone."""
        self._known.forget_all()

    def _changed_elsewhere(self, signal: Signal) -> None:
        if isinstance(signal, TokenDeleted | TokenRegistered | TokenRestored):
            self._known.forget([signal.owner])

    # -- registering and deleting --------------------------------------------------------------------------------------

    async def add(self, registration: Registration, max_tokens: int) -> list[Device]:
        return await self.add_many([registration], max_tokens)

    async def add_many(self, registrations: Sequence[Registration], max_tokens: int) -> list[Device]:
        owners = [registration.owner for registration in registrations]
        note = self._audit.recording()

        async def add(connection: Connection) -> tuple[list[Device], list[Signal]]:
            await _lock(connection, owners)
            evicted: list[Device] = []
            signals: list[Signal] = []
            for registration in registrations:
                old = await self._register(connection, registration, max_tokens)
                evicted += old
                told = TokenRegistered(registration.owner, registration.provider, registration.token)
                signals += [told, *map(deleted, old)]
            if registrations:
                await note(connection, registered_by_somebody(registrations))
            return evicted, signals

        return await self._change(add, lambda _: owners)

    async def _register(self, connection: Connection, registration: Registration, max_tokens: int) -> list[Device]:
        """Register one; returns what was evicted."""
        owner = registration.owner
        device = Device(
            owner, registration.provider, registration.token, registration.address, self._next_us(), self._number()
        )
        await connection.execute(_REGISTER, *_columns([_values(device)]))
        registered = _devices(await connection.fetch(_OF_OWNERS, [owner]))
        evicted = too_many(registered, device.key, max_tokens)
        await self._remove(connection, [Gone(old, EVICTED) for old in evicted])
        return evicted

    async def delete(self, owner: UserId, provider: str, token: DeviceToken, *, by_operator: bool = False) -> bool:
        by = BY_THE_OPERATOR if by_operator else BY_ITS_USER
        note = self._audit.recording()

        async def delete(connection: Connection) -> tuple[bool, list[Signal]]:
            await _lock(connection, [owner])
            found = _devices(await connection.fetch(_ONE, owner, provider, token))
            # What is gone already must not come back to a user who has deleted it.
            accounts = await removals.end(connection, owner, provider, token, by)
            await self._remove(connection, [Gone(device, by) for device in found])
            if found:
                await note(connection, device_change(Action.DEVICE_DELETE, provider, token, owner=owner))
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
        own = [owner for owner in owners if self._delivers(log_of(owner))]
        try:
            found = _by_owner(_devices(await self._database.read(lambda one: one.fetch(_OF_OWNERS, owners))))
        finally:
            self._known.look_up_ends(since, own, found)
        return found

    async def remove_dead(self, tokens: Sequence[DeadToken], *, quarantine: bool = False) -> list[bool]:
        names = list(dict.fromkeys((dead.device.token, dead.device.provider) for dead in tokens))

        async def remove(connection: Connection) -> tuple[tuple[list[bool], list[Device]], list[Signal]]:
            owners = {device.owner for device in _devices(await connection.fetch(_OF_TOKENS, *_columns(names)))}
            await _lock(connection, owners)
            registered: dict[tuple[str, str], list[Device]] = {}
            for device in _devices(await connection.fetch(_OF_TOKENS, *_columns(names))):
                registered.setdefault((device.token, device.provider), []).append(device)
            kept: list[bool] = []
            removed: list[Gone] = []
            for dead in tokens:
                found = registered.get((dead.device.token, dead.device.provider), [])
                gone = dead_registrations(dead, found)
                registered[dead.device.token, dead.device.provider] = left = [one for one in found if one not in gone]
                removed += [Gone(device, dead.reason, dead.account, quarantine) for device in gone]
                kept.append(any(device.owner == dead.device.owner for device in left))
            await self._remove(connection, removed)
            signals: list[Signal] = [deleted(gone.device) for gone in removed]
            if quarantine and removed:
                signals += [QuarantineChanged(account) for account in dict.fromkeys(dead.account for dead in tokens)]
            return (kept, [gone.device for gone in removed]), signals

        kept, _ = await self._change(remove, lambda done: [device.owner for device in done[1]])
        return kept

    async def learn(self, learned: Sequence[Learned]) -> None:
        for first in range(0, len(learned), _LEARNED_AT_ONCE):
            await self._learn(learned[first : first + _LEARNED_AT_ONCE])

    async def _learn(self, learned: Sequence[Learned]) -> None:
        # Of one registration the last one counts.
        latest: dict[tuple[str, str, int], Learned] = {}
        for one in learned:
            key = (one.device.owner, one.device.key, one.device.generation)
            before = latest.get(key, one)
            address = before.address if one.address is None else one.address
            success_ms = before.success_ms if one.success_ms is None else one.success_ms
            complaint = one.complaint or (None if one.success_ms is not None else before.complaint)
            latest[key] = Learned(one.device, address, success_ms, complaint)
        values = [
            (
                one.device.owner,
                one.device.provider,
                one.device.token,
                one.device.generation,
                one.address,
                one.success_ms,
                None if one.complaint is None else _encode(one.complaint).decode(),
            )
            for one in latest.values()
        ]
        if values:
            await self._database.write(lambda one: one.execute(_LEARN, *_columns(values)))
            self._known.forget([one.device.owner for one in learned])

    async def note_topics(self, reached: Sequence[TopicReached]) -> None:
        await self._database.write(lambda one: topics.note(one, reached))

    async def topics(self) -> list[TopicReached]:
        return await self._database.read(topics.read)

    async def quarantine_complaining(self, days: int, limit: int) -> list[Device]:
        async def quarantine(connection: Connection) -> tuple[list[Device], list[Signal]]:
            unfit = f"SELECT {_COLUMNS} FROM device WHERE {topics.UNFIT}"
            owners = {one.owner for one in _devices(await connection.fetch(unfit, days * DAY_MS, limit))}
            await _lock(connection, owners)
            # Again, as nobody changes them any more; others may have become unfit meanwhile.
            rows = await connection.fetch(unfit, days * DAY_MS, limit)
            found = [one for one in _devices(rows) if one.owner in owners]
            gone = [
                Gone(one, one.complaint.lasting(days), one.complaint.account, quarantined=True, for_topic=True)
                for one in found
                if one.complaint is not None
            ]
            await self._remove(connection, gone)
            accounts = dict.fromkeys(one.account for one in gone)
            return found, [*map(deleted, found), *map(QuarantineChanged, accounts)]

        return await self._change(quarantine, lambda found: [device.owner for device in found])

    # -- what the operator asks ----------------------------------------------------------------------------------------

    async def page(self, limit: int, *, start: Cursor | None = None) -> DevicePage:
        after = -1 if start is None else number_of(start)
        rows = await self._database.read(lambda one: one.fetch(_PAGE, after, limit))
        last = Cursor(str(rows[-1]["id"])) if len(rows) == limit else None
        return DevicePage(_devices(tuple(row)[:-1] for row in rows), last)

    async def find(self, token: DeviceToken) -> list[Device]:
        return _devices(await self._database.read(lambda one: one.fetch(_OF_TOKEN, token)))

    async def history(
        self, *, owner: UserId | None = None, token: DeviceToken | None = None, quarantined_only: bool = False
    ) -> list[Removal]:
        return await self._database.read(
            lambda one: removals.read(one, owner=owner, token=token, quarantined_only=quarantined_only)
        )

    async def removals(self, limit: int, *, start: Cursor | None = None) -> RemovalPage:
        first = 2**62 if start is None else number_of(start)
        found, following = await self._database.read(lambda one: removals.page(one, first, limit))
        return RemovalPage(found, None if following is None else Cursor(str(following)))

    async def restore(self, provider: str, token: DeviceToken, max_tokens: int) -> int:
        note = self._audit.recording()

        async def restore(connection: Connection) -> tuple[list[Device], list[Signal]]:
            await _lock(connection, await removals.owners_of(connection, provider, token))
            back, accounts = await removals.restore(
                connection, provider, token, lambda devices: self._put_back(connection, devices, max_tokens)
            )
            if back:
                await note(connection, device_change(Action.DEVICE_RESTORE, provider, token, registrations=len(back)))
            told = [TokenRestored(device.owner, device.provider, device.token) for device in back]
            return back, [*told, *(QuarantineChanged(account) for account in sorted(accounts))]

        back = await self._change(restore, lambda back: [device.owner for device in back])
        return len(back)

    async def quarantine(self) -> list[Quarantine]:
        return await self._database.read(quarantine.counted)

    async def quarantined_accounts(self, *, by_fuse: bool = False) -> list[tuple[str, str]]:
        return await self._database.read(quarantine.accounts_by_fuse if by_fuse else quarantine.accounts)

    async def release_quarantine(self, account: str, max_tokens: int, each: EachStep | None = None) -> int:
        async def release(connection: Connection, held: Held) -> Step:
            found = await quarantine.owners_of(connection, held)
            await _lock(connection, found)
            return await quarantine.release(
                connection, held, lambda devices: self._put_back(connection, devices, max_tokens)
            )

        return await self._end_quarantine(account, release, Action.QUARANTINE_RELEASE, each)

    async def purge_quarantine(self, account: str, each: EachStep | None = None) -> int:
        return await self._end_quarantine(account, quarantine.purge, Action.QUARANTINE_PURGE, each)

    async def _end_quarantine(
        self,
        account: str,
        take: Callable[[Connection, Held], Awaitable[Step]],
        action: Action,
        each: EachStep | None,
    ) -> int:
        """Take one step after the other, each in a transaction of its own: others write in between."""
        note = self._audit.recording()

        async def change(connection: Connection, held: Held) -> tuple[Step, list[Signal]]:
            step = await take(connection, held)
            if step.ended:
                change = Change(action, f"{held.provider}:{account}", {"registrations": step.ended})
                await note(connection, change)
            return step, [TokenRestored(device.owner, device.provider, device.token) for device in step.back]

        async def over(connection: Connection) -> tuple[None, list[Signal]]:
            return None, [QuarantineChanged(account)]

        ended, goes_on = 0, True
        for held in await self._database.read(lambda one: quarantine.held_of(one, account)):
            more = True
            while more and goes_on:
                step = await self._change(partial(change, held=held), lambda step: [one.owner for one in step.back])
                ended, more = ended + step.ended, step.more
                goes_on = each is None or await each(step.ended)
                await asyncio.sleep(quarantine.PAUSE_S if more else 0)
        # The fuse is looked at when it is over; also where it was over before, and nobody was told.
        await self._change(over, lambda _: [])
        return ended

    # -- within --------------------------------------------------------------------------------------------------------

    async def _put_back(self, connection: Connection, devices: Sequence[Device], max_tokens: int) -> list[bool]:
        """Register those that their owners have room for, in this order; whether each is registered by that."""
        registered = _devices(await connection.fetch(_OF_OWNERS, list({device.owner for device in devices})))
        taken = Counter(device.owner for device in registered)
        there = {(device.owner, device.key) for device in registered}
        are_back: list[bool] = []
        for device in devices:
            are_back.append(taken[device.owner] < max_tokens and (device.owner, device.key) not in there)
            taken[device.owner] += are_back[-1]
        back = [replace(device, generation=self._number()) for device in compress(devices, are_back)]
        if back:
            await connection.fetch(_BRING_BACK, *_columns([_values(device) for device in back]))
        return are_back

    async def _remove(self, connection: Connection, gone: Sequence[Gone]) -> None:
        """Delete registrations, and remember them. Marks are written by `_change`."""
        if gone:
            await removals.remember(connection, gone, self._clock.now_ms())
            keys = [(one.device.owner, one.device.provider, one.device.token) for one in gone]
            await connection.execute(_DELETE, *_columns(keys))

    async def _change(
        self,
        change: Callable[[Connection], Awaitable[tuple[T, list[Signal]]]],
        owners: Callable[[T], Iterable[UserId]],
    ) -> T:
        """Write, with marks in the logs of `owners` and with signals; whoever asks after the commit looks up anew what
        it has changed of them."""

        async def write(connection: Connection) -> tuple[T, list[Signal]]:
            result, signals = await change(connection)
            now_ms, origin = self._clock.now_ms(), self._signals.origin
            await marks.write(connection, owners(result), now_ms, origin, encoded(signals))
            return result, signals

        async def write_and_tell() -> T:
            noticed = self._signals.noticed
            result, signals = await partitions.with_today(self._database, self._clock.now_ms, write)
            changed = list(owners(result))
            self._known.forget(changed)
            self._signals.publish(signals)
            self._wakes.signalled()
            self._wakes.appended({log_of(owner) for owner in changed})
            if noticed != self._signals.noticed:
                # What was noticed between the change and this may have been about the same, and newer.
                await self._signals.correct(signals)
            return result

        # Whether or not the caller gives up meanwhile: the commit is made.
        return await asyncio.shield(asyncio.ensure_future(write_and_tell()))

    def _next_us(self) -> int:
        """The time, later than at every registration before, so that their order is never lost."""
        self._newest_us = max(int(self._clock.wall() * 1_000_000), self._newest_us + 1)
        return self._newest_us

    def _number(self) -> int:
        """For a generation. Within what every reader of JSON takes for an integer."""
        return self._random.getrandbits(53)


async def _lock(connection: Connection, owners: Collection[UserId]) -> None:
    """Nobody else changes the devices of these owners until the transaction ends. In one order, so that two wait for
    each other and do not deadlock."""
    if owners:
        await connection.execute(_LOCK_OWNERS, sorted({crc32(owner.encode()) % _OWNER_LOCKS for owner in owners}))


def _devices(rows: Iterable[Any]) -> list[Device]:
    return [
        Device(
            UserId(owner),
            provider,
            DeviceToken(token),
            Address(address),
            registered,
            generation,
            success,
            None if complaint is None else _decode_complaint(complaint),
        )
        for owner, provider, token, address, registered, generation, success, complaint in rows
    ]


def _by_owner(devices: Iterable[Device]) -> dict[UserId, list[Device]]:
    found: dict[UserId, list[Device]] = {}
    for device in sorted(devices, key=registered_us):
        found.setdefault(device.owner, []).append(device)
    return found


def _values(device: Device) -> tuple[Any, ...]:
    return device.owner, device.provider, device.token, device.address, device.registered_us, device.generation


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], []]
