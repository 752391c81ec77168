"""Registrations that are gone, in the table `removal`: remembered with the reason, and brought back.

What its own user has deleted never comes back, whatever had become of it before: all its removals say so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from tocsin.domain.devices import Device, DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.records import Removal
from tocsin.store.registrations import BY_ITS_USER, is_ended

_REMEMBER: Final = (
    "INSERT INTO removal(owner, provider, token, account, device, removed_ms, reason, quarantined, for_topic) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# By the index of tokens (`+`): one user may have more removals than one token has.
_OF_REGISTRATION: Final = (
    "SELECT id, reason, account, quarantined FROM removal "
    "WHERE token = ? AND provider = ? AND +owner = ? ORDER BY id DESC"
)
_END: Final = "UPDATE removal SET quarantined = 0, reason = reason || '; then ' || ? WHERE id = ?"
_OF_TOKEN: Final = (
    "SELECT id, device, reason, iif(quarantined, account, NULL) FROM removal "
    "WHERE token = ? AND provider = ? ORDER BY id DESC"
)

_decode_device = msgspec.json.Decoder(Device).decode
_encode = msgspec.json.Encoder().encode


def remember(
    driver: sqlite3.Connection,
    device: Device,
    now_ms: int,
    reason: str,
    account: str,
    *,
    quarantined: bool,
    for_topic: bool = False,
) -> None:
    """Note that a registration was removed, just now. `for_topic`: in quarantine without a fuse."""
    text = _encode(device).decode()
    row = (device.owner, device.provider, device.token, account, text, now_ms, reason, quarantined, for_topic)
    driver.execute(_REMEMBER, row)


def end(driver: sqlite3.Connection, owner: UserId, provider: str, token: DeviceToken, by: str) -> set[str]:
    """Somebody deletes a registration that may be gone already: what is in quarantine of it is released to nobody.

    By its user (`BY_ITS_USER`): no earlier removal of it may be undone. Returns in which accounts' quarantine it was.
    """
    accounts: set[str] = set()
    rows: list[int] = []
    for id, reason, account, quarantined in driver.execute(_OF_REGISTRATION, (token, provider, owner)):
        if is_ended(reason):
            break  # the user has deleted it before, and with it all that is older
        if quarantined:
            accounts.add(account)
        if quarantined or by == BY_ITS_USER:
            rows.append(id)
    for id in rows:
        driver.execute(_END, (by, id))
    return accounts


def restore(
    driver: sqlite3.Connection, provider: str, token: DeviceToken, put_back: Callable[[Device], bool]
) -> tuple[list[Device], set[str]]:
    """Bring a token back for every user who lost it, with `put_back`, which says whether it is registered by that.

    Only the latest removal of each registration counts: it is how its user wanted it last. What is not put back stays
    remembered. Returns what came back, and out of the quarantine of which accounts.
    """
    found = driver.execute(_OF_TOKEN, (token, provider)).fetchall()
    back = _bring_back(driver, found, put_back)
    return [device for device, _ in back], {account for _, account in back if account is not None}


def read(
    driver: sqlite3.Connection, *, owner: UserId | None, token: DeviceToken | None, quarantined_only: bool
) -> list[Removal]:
    """The removals, the oldest first."""
    wanted = {"owner": owner, "token": token, "quarantined": True if quarantined_only else None}
    given = {column: value for column, value in wanted.items() if value is not None}
    found = driver.execute(
        "SELECT device, removed_ms, reason, quarantined, account FROM removal"
        f" WHERE {' AND '.join(f'{column} = :{column}' for column in given) or 'TRUE'} ORDER BY id",
        given,
    )
    return [
        Removal(_decode_device(device), removed, reason, bool(held), account)
        for device, removed, reason, held, account in found
    ]


def page(driver: sqlite3.Connection, first: int, limit: int) -> tuple[list[Removal], int | None]:
    """Some removals up to the number `first`, newest first, and the number of the one after them."""
    found = driver.execute(
        "SELECT device, removed_ms, reason, quarantined, account, id FROM removal WHERE id <= ?"
        " ORDER BY id DESC LIMIT ?",
        (first, limit + 1),
    ).fetchall()
    removals = [
        Removal(_decode_device(device), removed, reason, bool(held), account)
        for device, removed, reason, held, account, _ in found[:limit]
    ]
    return removals, found[limit][-1] if len(found) > limit else None


def _bring_back(
    driver: sqlite3.Connection, latest_first: Sequence[tuple[Any, ...]], put_back: Callable[[Device], bool]
) -> list[tuple[Device, str | None]]:
    back: list[tuple[Device, str | None]] = []
    seen: set[tuple[UserId, str]] = set()
    for id, text, reason, account in latest_first:
        device = _decode_device(text)
        registration = (device.owner, device.key)
        if registration in seen:
            continue
        seen.add(registration)
        if not is_ended(reason) and put_back(device):
            driver.execute("DELETE FROM removal WHERE id = ?", (id,))
            back.append((device, account))
    return back
