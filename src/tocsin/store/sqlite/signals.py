"""Signals on SQLite: told to the process that made the change at once, to the server through the table `signal`.

Only commands beside the server write to the table: they hold nothing in memory that a signal could be about.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.records import Signal, TokenDeleted, TokenRegistered, TokenRestored
from tocsin.store.sqlite import rows

_INSERT = "INSERT INTO signal(body, at_ms) VALUES {rows}"
_READ = "SELECT id, body FROM signal WHERE id > ? ORDER BY id"
_NEWEST = "SELECT coalesce(max(id), 0) FROM signal"
_NOTE_READ = "INSERT OR REPLACE INTO housekeeping(name, number) VALUES ('signals_seen', ?)"
_READ_BY_SERVER = "SELECT coalesce((SELECT number FROM housekeeping WHERE name = 'signals_seen'), 0)"
_FORGET_AT_ONCE: Final = 1000
# Of the oldest some: to look at all of them each time would take long after a bulk action.
_FORGET = (
    f"DELETE FROM signal WHERE id < (SELECT min(id) FROM signal) + {_FORGET_AT_ONCE}"
    " AND at_ms < ? AND id < (SELECT max(id) FROM signal)"
)
_REGISTERED = """SELECT json_group_array(json_array(owner, provider, token)) FROM (
        SELECT json_extract(value, '$[0]') AS owner, json_extract(value, '$[1]') AS provider,
            json_extract(value, '$[2]') AS token
        FROM json_each(?)
    ) AS named
    WHERE EXISTS (SELECT 1 FROM device WHERE device.token = named.token AND device.provider = named.provider
        AND device.owner = named.owner)"""
KEPT_MS: Final = 24 * 3600 * 1000
"""A server reads them twice a second. Those of a day are left for whoever looks into what happened."""

Registration = tuple[UserId, str, DeviceToken]
"""Owner, provider and token."""

_encode = msgspec.json.Encoder().encode
_decode_registrations = msgspec.json.Decoder(list[Registration]).decode
_decode = msgspec.json.Decoder(Signal).decode


class SqliteSignals:
    """See `ports.Signals`."""

    def __init__(self, wall_clock: Callable[[], float], *, server: bool) -> None:
        self._wall_clock = wall_clock
        self._has_other_readers = not server
        """Whether a server may be running that has to be told."""
        self._receivers: list[Callable[[Signal], None]] = []
        self._seen = 0

    def subscribe(self, receive: Callable[[Signal], None]) -> None:
        self._receivers.append(receive)

    def publish(self, signals: Iterable[Signal]) -> None:
        """Tell those within this process. Called when the change is durable, before its caller is answered."""
        for signal in signals:
            for receive in self._receivers:
                receive(signal)

    def write(self, driver: sqlite3.Connection, signals: Sequence[Signal]) -> None:
        """Tell the server, in the transaction of the change."""
        if self._has_other_readers:
            at_ms = int(self._wall_clock() * 1000)
            rows.execute(driver, _INSERT, [(_encode(signal).decode(), at_ms) for signal in signals])

    def start(self, driver: sqlite3.Connection) -> None:
        """What was signalled before is known from the tables themselves."""
        (self._seen,) = driver.execute(_NEWEST).fetchone()
        driver.execute(_NOTE_READ, (self._seen,))

    def read(self, driver: sqlite3.Connection) -> tuple[list[Signal], int]:
        """What other processes have signalled since what was `received` last, and the number of the newest. It is noted
        that these were read.

        One of a newer version's kind is passed over. Of each registration that they are about, the last one says how it
        is now: this process may have changed it again before it noticed.
        """
        signals: list[Signal] = []
        seen = self._seen
        for id, body in driver.execute(_READ, (seen,)).fetchall():
            seen = id
            try:
                signals.append(_decode(body))
            except msgspec.MsgspecError:
                continue
        if seen != self._seen:
            driver.execute(_NOTE_READ, (seen,))
        return [*signals, *_corrections(driver, signals)], seen

    def received(self, signals: Sequence[Signal], seen: int) -> None:
        """The transaction in which they were read is done: tell those within this process."""
        self._seen = seen
        self.publish(signals)


def read_by_server(driver: sqlite3.Connection) -> int:
    """The number of the signal that the server has read last."""
    number: int
    (number,) = driver.execute(_READ_BY_SERVER).fetchone()
    return number


def forget(driver: sqlite3.Connection, now_ms: int) -> bool:
    """Forget some old signals; whether there may be more. The newest stays: its number is not given out again."""
    return driver.execute(_FORGET, (now_ms - KEPT_MS,)).rowcount == _FORGET_AT_ONCE


def _corrections(driver: sqlite3.Connection, signals: Iterable[Signal]) -> list[Signal]:
    """What is to follow `signals` for those registrations that are not any more as their last signal says."""
    deleted: dict[Registration, bool] = {}
    for signal in signals:
        if isinstance(signal, TokenDeleted | TokenRegistered | TokenRestored):
            deleted[signal.owner, signal.provider, signal.token] = isinstance(signal, TokenDeleted)
    if not deleted:
        return []
    (text,) = driver.execute(_REGISTERED, (_encode(list(deleted)).decode(),)).fetchone()
    registered = set(_decode_registrations(text))
    return [
        TokenRegistered(*registration) if registration in registered else TokenDeleted(*registration)
        for registration, was_deleted in deleted.items()
        if was_deleted == (registration in registered)
    ]
