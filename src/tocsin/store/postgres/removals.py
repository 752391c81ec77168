"""Registrations that are gone, in the table `removal`: remembered with the reason, and brought back.

What its own user has deleted never comes back, whatever had become of it before: all its removals say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import compress
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.devices import Device, DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.postgres.connections import Connection
from tocsin.store.records import Removal
from tocsin.store.registrations import BY_ITS_USER, is_ended

_REMEMBER: Final = """INSERT INTO removal(owner, provider, token, account, device, removed_ms, reason, quarantined,
        for_topic)
    SELECT owner, provider, token, account, device, $1, reason, quarantined, for_topic
    FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[], $9::bool[])
        WITH ORDINALITY AS t(owner, provider, token, account, device, reason, quarantined, for_topic, n) ORDER BY n"""
_OF_REGISTRATION: Final = """SELECT id, reason, account, quarantined FROM removal
    WHERE token = $1 AND provider = $2 AND owner = $3 ORDER BY id DESC"""
_END: Final = "UPDATE removal SET quarantined = false, reason = reason || '; then ' || $1 WHERE id = ANY($2::bigint[])"
_OF_TOKEN: Final = """SELECT id, device, reason, CASE WHEN quarantined THEN account END FROM removal
    WHERE token = $1 AND provider = $2 ORDER BY id DESC"""
_OWNERS: Final = "SELECT DISTINCT owner::text FROM removal WHERE token = $1 AND provider = $2"
_READ: Final = """SELECT device, removed_ms, reason, quarantined, account FROM removal
    WHERE ($1::uuid IS NULL OR owner = $1) AND ($2::text IS NULL OR token = $2) AND (quarantined OR NOT $3)
    ORDER BY id"""

_PAGE: Final = """SELECT id, device, removed_ms, reason, quarantined, account FROM removal WHERE id <= $1
    ORDER BY id DESC LIMIT $2"""

_decode_device = msgspec.json.Decoder(Device).decode
_encode = msgspec.json.Encoder().encode


class Gone(Struct, frozen=True):
    """A registration that was just removed, and why."""

    device: Device
    reason: str
    account: str = ""
    quarantined: bool = False
    for_topic: bool = False
    """In quarantine without a fuse."""


async def remember(connection: Connection, gone: Sequence[Gone], now_ms: int) -> None:
    rows = [
        (
            one.device.owner,
            one.device.provider,
            one.device.token,
            one.account,
            _encode(one.device).decode(),
            one.reason,
            one.quarantined,
            one.for_topic,
        )
        for one in gone
    ]
    await connection.execute(_REMEMBER, now_ms, *[list(column) for column in zip(*rows, strict=True)])


async def end(connection: Connection, owner: UserId, provider: str, token: DeviceToken, by: str) -> set[str]:
    """Somebody deletes a registration that may be gone already: what is in quarantine of it is released to nobody.

    By its user (`BY_ITS_USER`): no earlier removal of it may be undone. Returns in which accounts' quarantine it was.
    """
    accounts: set[str] = set()
    ended: list[int] = []
    for id, reason, account, quarantined in await connection.fetch(_OF_REGISTRATION, token, provider, owner):
        if is_ended(reason):
            break  # the user has deleted it before, and with it all that is older
        if quarantined:
            accounts.add(account)
        if quarantined or by == BY_ITS_USER:
            ended.append(id)
    if ended:
        await connection.execute(_END, by, ended)
    return accounts


async def owners_of(connection: Connection, provider: str, token: DeviceToken) -> list[UserId]:
    return [UserId(row[0]) for row in await connection.fetch(_OWNERS, token, provider)]


async def restore(
    connection: Connection,
    provider: str,
    token: DeviceToken,
    put_back: Callable[[Sequence[Device]], Awaitable[list[bool]]],
) -> tuple[list[Device], set[str]]:
    """Bring a token back for every user who lost it, with `put_back`, which says of each whether it is registered by
    that.

    Only the latest removal of each registration counts: it is how its user wanted it last. What is not put back stays
    remembered. Returns what came back, and out of the quarantine of which accounts.
    """
    candidates: list[tuple[int, Device, str | None]] = []
    seen: set[tuple[UserId, str]] = set()
    for id, text, reason, account in await connection.fetch(_OF_TOKEN, token, provider):
        device = _decode_device(text)
        if (registration := (device.owner, device.key)) in seen:
            continue
        seen.add(registration)
        if not is_ended(reason):
            candidates.append((id, device, account))
    back = list(compress(candidates, await put_back([device for _, device, _ in candidates])))
    await connection.execute("DELETE FROM removal WHERE id = ANY($1::bigint[])", [id for id, _, _ in back])
    return [device for _, device, _ in back], {account for _, _, account in back if account is not None}


async def read(
    connection: Connection, *, owner: UserId | None, token: DeviceToken | None, quarantined_only: bool
) -> list[Removal]:
    """The removals, the oldest first."""
    rows: Sequence[Any] = await connection.fetch(_READ, owner, token, quarantined_only)
    return [
        Removal(_decode_device(device), removed, reason, held, account)
        for device, removed, reason, held, account in rows
    ]


async def page(connection: Connection, first: int, limit: int) -> tuple[list[Removal], int | None]:
    """Some removals up to the number `first`, newest first, and the number of the one after them."""
    rows: Sequence[Any] = await connection.fetch(_PAGE, first, limit + 1)
    found = [
        Removal(_decode_device(device), removed, reason, held, account)
        for _, device, removed, reason, held, account in rows[:limit]
    ]
    return found, rows[limit][0] if len(rows) > limit else None
