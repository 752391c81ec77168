"""What a pool does next for the requests that wait: one decision, as a pure function; the pool carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar

from msgspec import Struct

SATURATED_FOR_S: Final = 0.1
"""How long requests wait for a stream before another connection is opened: most bursts are over sooner."""


class Candidate(Protocol):
    """What a decision needs to know of a connection."""

    @property
    def room(self) -> int | None:
        """How many more requests may be sent on it now; None where it takes no new requests any more."""


C = TypeVar("C", bound=Candidate)


class Give(Struct, Generic[C], frozen=True):
    """Send `count` requests (at least one) on `connection`."""

    connection: C
    count: int


class OpenOne(Struct, frozen=True):
    """Open one more connection."""


class Wait(Struct, frozen=True):
    """Do nothing now. `saturated_since` (`loop.time()`) is to be given to the next decision."""

    saturated_since: float | None


Decision = Give[C] | OpenOne | Wait

_OPEN_ONE: Final = OpenOne()


def choose(
    connections: Sequence[C],
    pending: int,
    *,
    most: int,
    dialling: bool,
    saturated_since: float | None,
    now: float,
) -> Decision[C]:
    """What to do for `pending` requests (at least one).

    Args:
        connections: all that are open, in the order in which they are to be filled.
        pending: how many requests wait.
        most: how many usable connections there may be.
        dialling: whether one is being opened.
        saturated_since: since when requests have waited without room (`loop.time()`); None where they have not.
        now: `loop.time()`.
    """
    # Case 1: a connection has room. The first such one is filled, so that few connections carry the load: Apple asks
    # for long-lived connections, and each costs its share of handshakes, windows and pings.
    usable = 0
    for connection in connections:
        room = connection.room
        if room:
            return Give(connection, room if room < pending else pending)
        if room is not None:
            usable += 1
    # Case 2: there are usable connections, but none has had room for less than SATURATED_FOR_S. Wait for answers.
    if usable:
        if saturated_since is None:
            return Wait(now)
        if now - saturated_since < SATURATED_FOR_S:
            return Wait(saturated_since)
    # Case 3: no usable connection, or none with room for so long. Open one more, unless one is being opened or the
    # bound is reached. Those that drain count as well, against twice the bound, so that a peer that ends each
    # connection does not get ever more of them.
    if not dialling and usable < most and len(connections) < 2 * most:
        return _OPEN_ONE
    return Wait(saturated_since)
