"""Which requests of a connection are not wholly with the socket: those can still be taken back, or go with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from tocsin.http2.messages import R


class Held(Generic[R]):
    """What was given to the engine and is not known to be with the socket.

    It is brought up to date after each write, by the ids of the streams: a request costs nothing here while the socket
    takes everything.

    Args:
        streams: the connection's requests in flight.
        body_bytes: how much of the body of a stream's request the engine has not written.
    """

    def __init__(self, streams: dict[int, R], body_bytes: Callable[[int], int]) -> None:
        self._streams = streams
        self._body_bytes = body_bytes
        self._noted_id = -1
        self._waiting: dict[int, R] = {}
        self._written_last: list[R] = []
        self.newest_id = -1
        """The newest stream, told by the connection."""
        self.at_risk: list[R] = []
        """Some bytes of these may wait in the transport: they go on, or end, with the connection alone."""
        self.some = False
        """Whether there is anything of either kind."""

    def nothing(self) -> None:
        """Everything was written, and the socket has taken it."""
        self._noted_id = self.newest_id

    def note(self, *, stopped: bool) -> None:
        """Not everything was written; `stopped`: because the socket has not taken what was written last."""
        self.add_new()
        waiting = self.waiting()
        self._waiting = {id: request for id, request in waiting.items() if self._body_bytes(id)}
        written = [request for id, request in waiting.items() if id not in self._waiting]
        # The last frame that was written may be cut, and its rest be in the next write.
        self.at_risk = [*self._written_last, *written] if stopped else []
        self._written_last = written if stopped else []
        self.some = bool(self._waiting or self.at_risk)

    def add_new(self) -> None:
        """What was given to the engine since is held as well."""
        for id in range(self._noted_id + 2, self.newest_id + 1, 2):
            if id in self._streams:
                self._waiting[id] = self._streams[id]
        self._noted_id = self.newest_id
        self.some = bool(self._waiting or self.at_risk)

    def waiting(self) -> dict[int, R]:
        """Those that the engine has not wholly written, by stream: they can be taken back."""
        return {id: request for id, request in self._waiting.items() if id in self._streams}
