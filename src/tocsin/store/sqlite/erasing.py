"""The statements that erase a user, each function one job on the writer's (or the reader's) connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.records import AccessRevoked, QuarantineChanged, Signal, TokenDeleted
from tocsin.store.sqlite import rows

WINDOW: Final = 20_000
"""So many events are looked at in one step: there is no index by which to find a user's."""
_NOBODY: Final = "00000000-0000-0000-0000-000000000000"

_DEVICES: Final = "DELETE FROM device WHERE owner = ? RETURNING provider, token"
_REMOVALS: Final = "DELETE FROM removal WHERE owner = ? RETURNING provider, token, account, quarantined"
_SESSIONS: Final = "DELETE FROM session WHERE owner = ?"
_PSEUDONYM: Final = "DELETE FROM pseudonym WHERE owner = ?"
_JOBS: Final = "DELETE FROM job WHERE instr(CAST(arguments AS TEXT), ?) > 0 AND state IN ('done', 'stopped', 'failed')"
_SHARED: Final = (
    "SELECT 1 FROM device WHERE token = ?1 AND provider = ?2"
    " UNION ALL SELECT 1 FROM removal WHERE token = ?1 AND provider = ?2 LIMIT 1"
)
_END_OF_WINDOW: Final = "SELECT max(seq) FROM (SELECT seq FROM event WHERE seq > ? ORDER BY seq LIMIT ?)"
_OF_OWNER: Final = "SELECT seq FROM event WHERE seq > ? AND seq <= ? AND owner = ?"
_COUNT: Final = (
    "WITH named(seq) AS (VALUES {rows}) SELECT json_group_array(json_array(state < 2, size,"
    " iif(json_valid('[' || attempts || ']'), json_array_length('[' || attempts || ']'), 0)))"
    " FROM named JOIN event USING (seq)"
)
_UNPARK: Final = "DELETE FROM parked WHERE seq IN (VALUES {rows})"
_DELETE: Final = "DELETE FROM event WHERE seq IN (VALUES {rows})"
_NEWEST: Final = "SELECT max(seq) FROM event"
# The newest event's number must not be given out again: its row stays, and says nothing.
_BLANK: Final = (
    f"UPDATE event SET id = ?, owner = '{_NOBODY}', message = '', urgent = 0, state = 2, waiting = 0, dead = 0,"
    " size = 0, digest = NULL, attempts = NULL, body = NULL, content_key_id = NULL, settled_ms = ? WHERE seq = ?"
)
_TALLY: Final = (
    "INSERT INTO housekeeping(name, number) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET number = number + ?2"
)
# Not deleted: the number of the newest must not be given out again.
_BLANK_SIGNALS: Final = "UPDATE signal SET body = ? WHERE id <= ? AND instr(body, ?) > 0"
_SIGNALS_OF: Final = "SELECT coalesce(max(id), 0) FROM signal WHERE instr(body, ?) > 0"

_decode_counted = msgspec.json.Decoder(list[tuple[int, int, int]]).decode
_HARMLESS: Final = msgspec.json.encode(AccessRevoked()).decode()


class Removed(Struct, frozen=True):
    """What was removed beside events, and what others have to be told."""

    devices: int
    removals: int
    sessions: int
    pseudonym: bool
    tokens: tuple[DeviceToken, ...]
    """Those that nobody else has."""
    signals: list[Signal]


def remove(driver: sqlite3.Connection, owner: UserId) -> Removed:
    """Everything but events."""
    devices = driver.execute(_DEVICES, (owner,)).fetchall()
    removals = driver.execute(_REMOVALS, (owner,)).fetchall()
    sessions = driver.execute(_SESSIONS, (owner,)).rowcount
    pseudonym = driver.execute(_PSEUDONYM, (owner,)).rowcount > 0
    driver.execute(_JOBS, (owner,))
    named = {(provider, token) for provider, token, *_ in [*devices, *removals]}
    own = sorted(token for provider, token in named if not driver.execute(_SHARED, (token, provider)).fetchone())
    signals: list[Signal] = [TokenDeleted(owner, provider, DeviceToken(token)) for provider, token in sorted(named)]
    held = sorted({account for *_, account, quarantined in removals if quarantined})
    signals += [QuarantineChanged(account) for account in held]
    if sessions:
        signals.append(AccessRevoked())
    return Removed(len(devices), len(removals), sessions, pseudonym, tuple(map(DeviceToken, own)), signals)


def find_events(driver: sqlite3.Connection, owner: UserId, after: int) -> tuple[list[int], int | None]:
    """The numbers of the user's events in the next window, and where that ends; None behind the newest event."""
    last: int | None
    (last,) = driver.execute(_END_OF_WINDOW, (after, WINDOW)).fetchone()
    if last is None:
        return [], None
    return [seq for (seq,) in driver.execute(_OF_OWNER, (after, last, owner))], last


def delete_events(driver: sqlite3.Connection, seqs: Sequence[int], now_ms: int, new_id: str) -> tuple[int, int, int]:
    """Returns how many there were, how many of them waited, and how many receipts they had."""
    counted = [row for text in rows.fetch_json(driver, _COUNT, seqs) for row in _decode_counted(text)]
    waiting = [size for waits, size, _ in counted if waits]
    driver.execute(_TALLY, ("erased_events", len(waiting)))
    driver.execute(_TALLY, ("erased_bytes", sum(waiting)))
    rows.execute(driver, _UNPARK, [(seq,) for seq in seqs])
    (newest,) = driver.execute(_NEWEST).fetchone()
    rows.execute(driver, _DELETE, [(seq,) for seq in seqs if seq != newest])
    if newest in seqs:
        driver.execute(_BLANK, (new_id, now_ms, newest))
    return len(counted), len(waiting), sum(receipts for *_, receipts in counted)


def newest_signal(driver: sqlite3.Connection, owner: UserId) -> int:
    """The number of the newest signal that names the user; 0 where none does."""
    number: int
    (number,) = driver.execute(_SIGNALS_OF, (owner,)).fetchone()
    return number


def blank_signals(driver: sqlite3.Connection, owner: UserId, up_to: int) -> None:
    driver.execute(_BLANK_SIGNALS, (_HARMLESS, up_to, owner))
