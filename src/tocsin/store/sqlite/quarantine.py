"""Quarantine in the table `removal`: a few hundred registrations in a step, for there may be hundreds of thousands."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import compress
from operator import itemgetter
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.devices import Device
from tocsin.store.records import Quarantine
from tocsin.store.sqlite import rows

STEP_ROWS: Final = 500
PAUSE_S: Final = 0.02
"""Between two steps: time for whoever else writes, in this process or another."""

_HELD: Final = "removal INDEXED BY removal_quarantined WHERE quarantined = 1"
_BY_FUSE: Final = "removal INDEXED BY removal_by_fuse WHERE quarantined = 1 AND for_topic = 0"
# Each half is read from its index alone.
_COUNTED: Final = f"""SELECT held.provider, held.account, tokens, oldest_ms, tokens - coalesce(by_fuse, 0) FROM (
        SELECT provider, account, count(*) AS tokens, min(removed_ms) AS oldest_ms FROM {_HELD}
        GROUP BY provider, account
    ) AS held LEFT JOIN (
        SELECT provider, account, count(*) AS by_fuse FROM {_BY_FUSE} GROUP BY provider, account
    ) AS fuse ON fuse.provider = held.provider AND fuse.account = held.account
    ORDER BY held.account, held.provider"""
_NEXT_ACCOUNT: Final = (
    "SELECT provider, account FROM {held} AND provider = ? AND account > ? ORDER BY provider, account LIMIT 1"
)
_NEXT_PROVIDER: Final = "SELECT provider, account FROM {held} AND provider > ? ORDER BY provider, account LIMIT 1"
# The oldest first: were the newest forgotten first, what comes meanwhile would get its number, and be taken for it.
_OF_ACCOUNT: Final = f"{_HELD} AND provider = ? AND account = ? AND id <= ? ORDER BY removed_ms LIMIT {STEP_ROWS}"
# Whether it may come back: not where the token was registered again since, and not where it was removed again later.
# By the index of tokens (`+`): one user may have more removals than one token has.
_SOME: Final = f"""SELECT json_group_array(json_array(id, json(device), may_come_back)) FROM (
    SELECT id, device, NOT EXISTS (
            SELECT 1 FROM device WHERE device.token = removal.token AND device.provider = removal.provider
                AND device.owner = removal.owner
        ) AND NOT EXISTS (
            SELECT 1 FROM removal AS later WHERE later.token = removal.token AND later.provider = removal.provider
                AND +later.owner = removal.owner AND later.id > removal.id
        ) AS may_come_back
    FROM {_OF_ACCOUNT})"""
_END: Final = "UPDATE removal SET quarantined = 0 WHERE id IN (VALUES {rows})"
_FORGET: Final = "DELETE FROM removal WHERE id IN (VALUES {rows})"
_PURGE: Final = f"UPDATE removal SET quarantined = 0 WHERE id IN (SELECT id FROM {_OF_ACCOUNT})"

_decode = msgspec.json.Decoder(list[tuple[int, Device, bool]], strict=False).decode


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


def counted(driver: sqlite3.Connection) -> list[Quarantine]:
    """How much each account has in quarantine: reads all of it."""
    return [Quarantine(*row) for row in driver.execute(_COUNTED).fetchall()]


def accounts(driver: sqlite3.Connection) -> list[tuple[str, str]]:
    """The accounts (provider, account) that have anything in quarantine: one look into the index for each of them."""
    return _accounts(driver, _HELD)


def accounts_by_fuse(driver: sqlite3.Connection) -> list[tuple[str, str]]:
    """Those of them whose fuse has put something there."""
    return _accounts(driver, _BY_FUSE)


def _accounts(driver: sqlite3.Connection, held: str) -> list[tuple[str, str]]:
    next_account, next_provider = _NEXT_ACCOUNT.format(held=held), _NEXT_PROVIDER.format(held=held)
    found: list[tuple[str, str]] = []
    last = ("", "")
    while True:
        row = driver.execute(next_account, last).fetchone() or driver.execute(next_provider, last[:1]).fetchone()
        if row is None:
            return found
        last = row
        found.append(last)


def held_of(driver: sqlite3.Connection, account: str) -> list[Held]:
    """What this account has in quarantine now: one for each provider that has an account of this name."""
    (newest,) = driver.execute("SELECT coalesce(max(id), 0) FROM removal").fetchone()
    return [Held(provider, name, newest) for provider, name in accounts(driver) if name == account]


def release(driver: sqlite3.Connection, held: Held, put_back: Callable[[list[Device]], list[bool]]) -> Step:
    """Bring some registrations back; of those, what was removed last goes first.

    `put_back` says of each whether it is registered by that. The removal of what does not come back stays remembered.
    """
    (text,) = driver.execute(_SOME, held.values).fetchone()
    found = sorted(_decode(text), key=itemgetter(0), reverse=True)
    candidates = [(id, device) for id, device, may_come_back in found if may_come_back]
    are_back = put_back([device for _, device in candidates])
    back = dict(compress(candidates, are_back))
    rows.execute(driver, _FORGET, [(id,) for id in back])
    rows.execute(driver, _END, [(id,) for id, *_ in found if id not in back])
    return Step(len(back), list(back.values()), len(found) == STEP_ROWS)


def purge(driver: sqlite3.Connection, held: Held) -> Step:
    """Take some for removed."""
    purged = driver.execute(_PURGE, held.values).rowcount
    return Step(purged, [], purged == STEP_ROWS)
