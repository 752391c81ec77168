"""Registry on SQLite: who has which devices, what became of those that are gone."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar
from zlib import crc32

import msgspec
from sqlalchemy import Connection

from tocsin.domain.devices import Device, DeviceToken, System
from tocsin.domain.events import UserId
from tocsin.store.ports import DeadToken, Learned, Removal
from tocsin.store.sqlite import rows
from tocsin.store.sqlite.database import Database, raw
from tocsin.store.sqlite.known import KnownDevices

T = TypeVar("T")

_COLUMNS: Final = (
    "owner, system, token, application_id, sandbox, apns_topic, registered_us, "
    "learned_sandbox, learned_project, learned_field, last_success_ms"
)
_DEVICE_JSON = f"json_array({', '.join('device.' + column for column in _COLUMNS.split(', '))})"

# A device's row id is its owner's key and a number: the devices of an owner lie side by side, and an integer finds
# them, with half the page reads that the owner as the key takes. Owners may share a key; the rows tell them apart.
_ROWS_OF_A_KEY: Final = 2**31
_ITS_ROWS: Final = f"BETWEEN {{key}} AND {{key}} + {_ROWS_OF_A_KEY - 1}"

_OF_OWNERS = (
    f"SELECT json_group_array({_DEVICE_JSON}) FROM json_each(?) AS key "
    f"CROSS JOIN device ON device.id {_ITS_ROWS.format(key='key.value')}"
)
_INSERT = f"""INSERT INTO device(id, {_COLUMNS}) VALUES (
        (SELECT coalesce(max(id) + 1, ?1) FROM device WHERE id {_ITS_ROWS.format(key="?1")}),
        ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL, NULL, NULL, NULL
    ) ON CONFLICT(token, system, owner) DO """
_REGISTER: Final = (
    _INSERT
    + """UPDATE SET application_id = ?5, sandbox = ?6, apns_topic = ?7, registered_us = ?8,
        learned_sandbox = NULL, learned_project = NULL, learned_field = NULL, last_success_ms = NULL"""
)
_BRING_BACK: Final = _INSERT + "NOTHING"
_REMEMBER = (
    "INSERT INTO removal(owner, system, token, application, device, removed_ms, reason, quarantined) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_BY_ITS_USER: Final = "deleted by its user"
_RELEASE_QUARANTINE = (
    f"UPDATE removal SET quarantined = 0, reason = reason || '; then {_BY_ITS_USER}' "
    "WHERE owner = ? AND system = ? AND token = ? AND quarantined = 1"
)
# Not by the index of tokens: the rows themselves were read a moment ago, to reach these devices.
_LEARN = f"""WITH learned(key, owner, system, token, sandbox, project, field, success_ms) AS (VALUES {{rows}})
    UPDATE device NOT INDEXED SET
        learned_sandbox = coalesce(learned.sandbox, learned_sandbox),
        learned_project = coalesce(learned.project, learned_project),
        learned_field = coalesce(learned.field, learned_field),
        last_success_ms = coalesce(learned.success_ms, last_success_ms)
    FROM learned
    WHERE device.id {_ITS_ROWS.format(key="learned.key")}
        AND device.owner = learned.owner AND device.system = learned.system AND device.token = learned.token"""

_LEARNED_AT_ONCE: Final = 2000

# SQLite's JSON has 0 and 1 where the columns are boolean.
_decode_devices = msgspec.json.Decoder(list[Device], strict=False).decode
_decode_device = msgspec.json.Decoder(Device, strict=False).decode
_encode = msgspec.json.Encoder().encode


def _registered(device: Device) -> int:
    return device.registered_us


class SqliteRegistry:
    """See `ports.Registry`."""

    def __init__(self, database: Database, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._wall_clock = wall_clock
        self._known = KnownDevices()
        self._to_look_up: list[UserId] = []
        self._looking_up: asyncio.Future[dict[UserId, list[Device]]] | None = None

    def forget(self) -> None:
        """Another process has changed the file."""
        self._known.forget_all()

    async def add(self, device: Device, max_tokens: int) -> list[Device]:
        self._database.refuse_if_damaged()

        def add(connection: Connection) -> list[Device]:
            driver = raw(connection)
            driver.execute(_REGISTER, _values(device))
            # Never the one that is just being registered, whatever a clock that was set back says of its age.
            registered = _by_owner(_text_of(driver, [device.owner])).get(device.owner, [])
            others = [other for other in registered if other.key != device.key]
            evicted = sorted(others, key=_registered)[: max(0, len(others) + 1 - max_tokens)]
            for old in evicted:
                self._remove(driver, old, "evicted: the user registered more tokens than allowed")
            return evicted

        return await self._change(add, lambda _: [device.owner])

    async def delete(self, owner: UserId, system: System, token: DeviceToken, *, by_operator: bool = False) -> bool:
        self._database.refuse_if_damaged()

        def delete(connection: Connection) -> bool:
            driver = raw(connection)
            found = _select(driver, "owner = ? AND system = ? AND token = ?", (owner, str(system), token))
            for device in found:
                self._remove(driver, device, "removed by the operator" if by_operator else _BY_ITS_USER)
            # What is in quarantine must not come back to a user who has deleted it.
            driver.execute(_RELEASE_QUARANTINE, (owner, str(system), token))
            return bool(found)

        return await self._change(delete, lambda _: [owner])

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
            found = _by_owner(await self._database.read(lambda connection: _text_of(raw(connection), owners)))
        finally:
            self._known.look_up_ends(since, owners, found)
        return found

    async def remove_dead(self, tokens: Sequence[DeadToken], *, quarantine: bool = False) -> list[set[UserId]]:
        def remove(connection: Connection) -> tuple[list[set[UserId]], list[UserId]]:
            driver = raw(connection)
            survivors: list[set[UserId]] = []
            removed: list[UserId] = []
            for dead in tokens:
                kept: set[UserId] = set()
                for device in _select(driver, "token = ? AND system = ?", (dead.token, dead.system)):
                    if device.registered_us < dead.before_us:
                        self._remove(driver, device, dead.reason, dead.application, quarantined=quarantine)
                        removed.append(device.owner)
                    else:
                        kept.add(device.owner)
                survivors.append(kept)
            return survivors, removed

        survivors, _ = await self._change(remove, lambda done: done[1])
        return survivors

    async def learn(self, learned: Sequence[Learned]) -> None:
        # In the table's order: the page of those who lie on one is written once.
        in_order = sorted(learned, key=lambda one: _key(one.owner))
        for first in range(0, len(in_order), _LEARNED_AT_ONCE):
            await self._learn(in_order[first : first + _LEARNED_AT_ONCE])

    async def _learn(self, learned: Sequence[Learned]) -> None:
        values = [
            (_key(one.owner), one.owner, one.system, one.token, one.sandbox, one.project, one.field, one.success_ms)
            for one in learned
        ]
        await self._change(
            lambda connection: rows.execute(raw(connection), _LEARN, values),
            lambda _: [one.owner for one in learned],
        )

    async def find(self, token: DeviceToken) -> list[Device]:
        return await self._database.read(lambda connection: _select(raw(connection), "token = ?", (token,)))

    async def history(
        self, *, owner: UserId | None = None, token: DeviceToken | None = None, quarantined_only: bool = False
    ) -> list[Removal]:
        def read(connection: Connection) -> list[Removal]:
            wanted = {"owner": owner, "token": token, "quarantined": True if quarantined_only else None}
            given = {column: value for column, value in wanted.items() if value is not None}
            found = raw(connection).execute(
                "SELECT device, removed_ms, reason, quarantined, application FROM removal"
                f" WHERE {' AND '.join(f'{column} = :{column}' for column in given) or 'TRUE'} ORDER BY id",
                given,
            )
            return [
                Removal(_decode_device(device), removed, reason, bool(held), application)
                for device, removed, reason, held, application in found
            ]

        return await self._database.read(read)

    async def restore(
        self, *, token: DeviceToken | None = None, application: str | None = None, quarantined_only: bool = True
    ) -> int:
        if token is None and application is None:
            raise ValueError("restore: name a token or an application")
        self._database.refuse_if_damaged()

        def restore(connection: Connection) -> tuple[int, list[UserId]]:
            driver = raw(connection)
            where = (
                "(?1 IS NULL OR token = ?1) AND (?2 IS NULL OR application = ?2) AND (?3 = 0 OR quarantined = 1)",
                (token, application, int(quarantined_only)),
            )
            found = driver.execute(
                f"SELECT id, device, reason FROM removal WHERE {where[0]} ORDER BY id DESC", where[1]
            ).fetchall()
            restored = 0
            owners: list[UserId] = []
            deleted: set[tuple[str, str]] = set()
            # The latest removal of a registration first: it is how its user wanted it last.
            for id, text, reason in found:
                device = _decode_device(text)
                if _BY_ITS_USER in reason or (device.owner, device.key) in deleted:
                    deleted.add((device.owner, device.key))
                    continue
                # A token registered again since is as its user wants it: it is left alone.
                restored += driver.execute(_BRING_BACK, _values(device)).rowcount
                driver.execute("DELETE FROM removal WHERE id = ?", (id,))
                owners.append(device.owner)
            return restored, owners

        restored, _ = await self._change(restore, lambda done: done[1])
        return restored

    async def purge_quarantine(self, application: str) -> int:
        self._database.refuse_if_damaged()
        return await self._database.write(
            lambda connection: (
                raw(connection)
                .execute("UPDATE removal SET quarantined = 0 WHERE quarantined = 1 AND application = ?", (application,))
                .rowcount
            )
        )

    async def _change(self, change: Callable[[Connection], T], owners: Callable[[T], Iterable[UserId]]) -> T:
        """Write; whoever asks after the commit looks up anew what it has changed of `owners`."""
        writing = asyncio.ensure_future(self._database.write(change))

        def forget(done: asyncio.Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._known.forget(owners(done.result()))

        # Whether or not the caller has given up meanwhile: the commit is made.
        writing.add_done_callback(forget)
        return await asyncio.shield(writing)

    def _remove(
        self,
        driver: sqlite3.Connection,
        device: Device,
        reason: str,
        reached_by: str = "",
        *,
        quarantined: bool = False,
    ) -> int:
        key = (device.owner, device.system, device.token)
        application = device.application_id or reached_by or device.learned_project or ""
        now_ms = int(self._wall_clock() * 1000)
        driver.execute(_REMEMBER, (*key, application, _encode(device).decode(), now_ms, reason, quarantined))
        return driver.execute("DELETE FROM device WHERE owner = ? AND system = ? AND token = ?", key).rowcount


def _values(device: Device) -> tuple[Any, ...]:
    return (
        _key(device.owner),
        device.owner,
        str(device.system),
        device.token,
        device.application_id,
        device.sandbox,
        device.apns_topic,
        device.registered_us,
    )


def _select(driver: sqlite3.Connection, where: str, parameters: tuple[Any, ...]) -> list[Device]:
    (text,) = driver.execute(
        f"SELECT json_group_array({_DEVICE_JSON}) FROM device WHERE {where}", parameters
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
        found[owner].sort(key=_registered)
    return found
