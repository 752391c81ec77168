"""Quarantine in the table `removal`: a few hundred registrations in a step, for there may be hundreds of thousands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import compress
from operator import itemgetter
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.devices import Device
from tocsin.domain.events import UserId
from tocsin.store.postgres.connections import Connection
from tocsin.store.records import Quarantine

STEP_ROWS: Final = 500
PAUSE_S: Final = 0.02
"""Between two steps: time for whoever else writes."""

# Each half is read from its index alone.
_COUNTED: Final = """SELECT held.provider, held.account, tokens, oldest_ms, tokens - coalesce(by_fuse, 0) FROM (
        SELECT provider, account, count(*) AS tokens, min(removed_ms) AS oldest_ms FROM removal WHERE quarantined
        GROUP BY provider, account
    ) AS held LEFT JOIN (
        SELECT provider, account, count(*) AS by_fuse FROM removal WHERE quarantined AND NOT for_topic
        GROUP BY provider, account
    ) AS fuse ON fuse.provider = held.provider AND fuse.account = held.account
    ORDER BY held.account, held.provider"""
_NEXT: Final = """SELECT provider, account FROM removal WHERE {held} AND (provider, account) > ($1, $2)
    ORDER BY provider, account LIMIT 1"""
_OF_ACCOUNT: Final = f"""SELECT id FROM removal WHERE quarantined AND provider = $1 AND account = $2 AND id <= $3
    ORDER BY removed_ms, id LIMIT {STEP_ROWS}"""
# Whether it may come back: not where the token was registered again since, and not where it was removed again later.
_SOME: Final = f"""SELECT id, device, NOT EXISTS (
        SELECT 1 FROM device WHERE device.owner = removal.owner AND device.provider = removal.provider
            AND device.token = removal.token
    ) AND NOT EXISTS (
        SELECT 1 FROM removal AS later WHERE later.token = removal.token AND later.provider = removal.provider
            AND later.owner = removal.owner AND later.id > removal.id
    ) FROM removal WHERE id IN ({_OF_ACCOUNT})"""
_OWNERS: Final = f"SELECT DISTINCT owner::text FROM removal WHERE id IN ({_OF_ACCOUNT})"
_END: Final = "UPDATE removal SET quarantined = false WHERE id = ANY($1::bigint[])"
_FORGET: Final = "DELETE FROM removal WHERE id = ANY($1::bigint[])"
_PURGE: Final = f"UPDATE removal SET quarantined = false WHERE id IN ({_OF_ACCOUNT}) RETURNING id"

_decode_device = msgspec.json.Decoder(Device).decode


class Held(Struct, frozen=True):
    """What one account has in quarantine at one moment: its removals up to that number."""

    provider: str
    account: str
    newest: int

    @property
    def values(self) -> tuple[Any, ...]:
        return self.provider, self.account, self.newest


class Step(Struct, frozen=True):
    """One step of a release or a purge: how many it has ended, what is back, and whether there may be more."""

    ended: int
    back: list[Device]
    more: bool


async def counted(connection: Connection) -> list[Quarantine]:
    """How much each account has in quarantine: reads all of it."""
    return [Quarantine(*row) for row in await connection.fetch(_COUNTED)]


async def accounts(connection: Connection) -> list[tuple[str, str]]:
    """The accounts (provider, account) that have anything in quarantine: one look into the index for each of them."""
    return await _accounts(connection, "quarantined")


async def accounts_by_fuse(connection: Connection) -> list[tuple[str, str]]:
    """Those of them whose fuse has put something there."""
    return await _accounts(connection, "quarantined AND NOT for_topic")


async def _accounts(connection: Connection, held: str) -> list[tuple[str, str]]:
    following = _NEXT.format(held=held)
    found: list[tuple[str, str]] = []
    last = ("", "")
    while (row := await connection.fetchrow(following, *last)) is not None:
        last = (row[0], row[1])
        found.append(last)
    return found


async def held_of(connection: Connection, account: str) -> list[Held]:
    """What this account has in quarantine now: one for each provider that has an account of this name."""
    newest = await connection.fetchval("SELECT coalesce(max(id), 0) FROM removal")
    return [Held(provider, name, newest) for provider, name in await accounts(connection) if name == account]


async def owners_of(connection: Connection, held: Held) -> list[UserId]:
    """Of whom the next step is."""
    return [UserId(row[0]) for row in await connection.fetch(_OWNERS, *held.values)]


async def release(
    connection: Connection, held: Held, put_back: Callable[[Sequence[Device]], Awaitable[list[bool]]]
) -> Step:
    """Bring some registrations back; of those, what was removed last goes first.

    `put_back` says of each whether it is registered by that. The removal of what does not come back stays remembered.
    """
    rows = await connection.fetch(_SOME, *held.values)
    found = sorted(((id, _decode_device(text), may) for id, text, may in rows), key=itemgetter(0), reverse=True)
    candidates = [(id, device) for id, device, may_come_back in found if may_come_back]
    are_back = await put_back([device for _, device in candidates])
    back = dict(compress(candidates, are_back))
    await connection.execute(_FORGET, list(back))
    await connection.execute(_END, [id for id, *_ in found if id not in back])
    return Step(len(back), list(back.values()), len(found) == STEP_ROWS)


async def purge(connection: Connection, held: Held) -> Step:
    """Take some for removed."""
    purged = len(await connection.fetch(_PURGE, *held.values))
    return Step(purged, [], purged == STEP_ROWS)
