"""Which connections of clients are open, and which of them give way when there are too many.

A connection is idle between two requests, and before its first one. The one that has been idle for longest gives way to
a new one (RFC 9112, 9.5: a server may close an idle connection at any time). Only where none is idle is a new one
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Final, Protocol

from tocsin.api.client_address import counted_as

_SPARED_S: Final = 1.0
"""A connection that has been idle for less than this does not give way: its client may be about to use it."""
_REFUSED_AT_ONCE: Final = 256
"""So many connections over the limit get an answer; further ones are closed without one."""
_REFUSED_AT_ONCE_PER_ADDRESS: Final = 16
_PRESSURE: Final = 0.75
"""From this share of all connections on, idle ones are kept only for a short time."""
_KEPT_UNDER_PRESSURE_S: Final = 5.0


class Held(Protocol):
    """A connection, as it is known here."""

    idle_since: float | None
    """`loop.time()`; None while it is used."""

    def give_way(self) -> None:
        """End at once."""


class Intake(Enum):
    """What becomes of a new connection."""

    TAKEN = auto()
    FULL = auto()
    """Refused: there are too many."""
    ADDRESS_FULL = auto()
    """Refused: its address has too many."""
    DROPPED = auto()
    """Refused without an answer."""


class Connections:
    """All open connections, those included that are being refused, or are still in the TLS handshake.

    Args:
        most: of all clients.
        most_per_address: of one address.
        may_be_limited: whether `most_per_address` applies to a peer: it is no proxy, behind which many clients are.
        clock: `loop.time`.
    """

    def __init__(
        self, most: int, most_per_address: int, may_be_limited: Callable[[str], bool], clock: Callable[[], float]
    ) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._may_be_limited = may_be_limited
        self._clock = clock
        self._idle: dict[Held, None] = {}
        """The one that has been idle for longest comes first."""
        self._open: dict[Held, str | None] = {}
        """And as what its address is counted, where it is."""
        self._by_address: dict[str, set[Held]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def accept(self, connection: Held, peer: str) -> Intake:
        """Count a new connection, which is idle until it is `used`. `peer` is the address that it comes from."""
        address = counted_as(peer) if peer and self._may_be_limited(peer) else None
        self._open[connection] = address
        self.idle(connection)
        if address is not None:
            own = self._by_address.setdefault(address, set())
            own.add(connection)
            if len(own) > self._most_per_address and not self._end_one(self._longest_idle(own)):
                self.used(connection)  # It does not give way: it ends by itself.
                few = len(own) <= self._most_per_address + _REFUSED_AT_ONCE_PER_ADDRESS
                return Intake.ADDRESS_FULL if few else Intake.DROPPED
        if len(self._open) > self._most and not self._end_one(next(iter(self._idle), None)):
            self.used(connection)
            return Intake.FULL if len(self._open) <= self._most + _REFUSED_AT_ONCE else Intake.DROPPED
        return Intake.TAKEN

    def used(self, connection: Held) -> None:
        """Its client has begun to send a request."""
        connection.idle_since = None
        self._idle.pop(connection, None)

    def idle(self, connection: Held) -> None:
        """It waits for its client to send a request."""
        self._idle.pop(connection, None)
        if connection in self._open:
            connection.idle_since = self._clock()
            self._idle[connection] = None

    def ended(self, connection: Held) -> None:
        """It is closed. To be told twice changes nothing."""
        self._idle.pop(connection, None)
        address = self._open.pop(connection, None)
        if address is not None:
            own = self._by_address[address]
            own.discard(connection)
            if not own:
                del self._by_address[address]

    def sweep(self) -> None:
        """To be called about once a second: under pressure, end those that have been idle for a few seconds."""
        if len(self._open) <= _PRESSURE * self._most:
            return
        until = self._clock() - _KEPT_UNDER_PRESSURE_S
        for connection in list(self._idle):
            if connection.idle_since is None or connection.idle_since > until:
                return
            self._end(connection)

    def _end_one(self, connection: Held | None) -> bool:
        """End this one, unless it has not been idle for long."""
        if connection is None or connection.idle_since is None or connection.idle_since > self._clock() - _SPARED_S:
            return False
        self._end(connection)
        return True

    def _end(self, connection: Held) -> None:
        self.ended(connection)
        connection.give_way()

    @staticmethod
    def _longest_idle(among: Iterable[Held]) -> Held | None:
        idle = [one for one in among if one.idle_since is not None]
        return min(idle, key=lambda one: one.idle_since or 0.0, default=None)
