"""Signals on SQLite: told to the process that made the change at once, to the server through the table `signal`.

Only commands beside the server write to the table: they hold nothing in memory that a signal could be about.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from tocsin.store.records import Signal

_INSERT = "INSERT INTO signal(body, at_ms) VALUES (?, ?)"
_READ = "SELECT id, body FROM signal WHERE id > ? ORDER BY id"
_NEWEST = "SELECT coalesce(max(id), 0) FROM signal"
_FORGET = "DELETE FROM signal WHERE at_ms < ? AND id < (SELECT max(id) FROM signal)"
KEPT_MS: Final = 24 * 3600 * 1000
"""A server reads them twice a second. Those of a day are left for whoever looks into what happened."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Signal).decode


class SqliteSignals:
    """See `ports.Signals`."""

    def __init__(self, wall_clock: Callable[[], float], *, server: bool) -> None:
        self._wall_clock = wall_clock
        self.has_other_readers = not server
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
        if self.has_other_readers:
            at_ms = int(self._wall_clock() * 1000)
            for signal in signals:
                driver.execute(_INSERT, (_encode(signal).decode(), at_ms))

    def start(self, driver: sqlite3.Connection) -> None:
        """What was signalled before is known from the tables themselves."""
        (self._seen,) = driver.execute(_NEWEST).fetchone()

    def read(self, driver: sqlite3.Connection) -> tuple[list[Signal], int]:
        """What other processes have signalled since what was `received` last, and the number of the newest.

        One of a newer version's kind is passed over.
        """
        signals: list[Signal] = []
        seen = self._seen
        for id, body in driver.execute(_READ, (seen,)).fetchall():
            seen = id
            try:
                signals.append(_decode(body))
            except msgspec.MsgspecError:
                continue
        return signals, seen

    def received(self, signals: Sequence[Signal], seen: int) -> None:
        """The transaction in which they were read is done: tell those within this process."""
        self._seen = seen
        self.publish(signals)


def forget(driver: sqlite3.Connection, now_ms: int) -> None:
    """Forget old signals; the newest stays, so that its number is not given out again."""
    driver.execute(_FORGET, (now_ms - KEPT_MS,))
