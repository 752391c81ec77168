"""Requests that wait for room on a connection: the urgent ones first, each kind in the order in which it came."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from tocsin.http2.messages import Request


class Waiting:
    def __init__(self) -> None:
        self._urgent: deque[Request] = deque()
        self._others: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    def add(self, requests: Iterable[Request]) -> None:
        for request in requests:
            (self._urgent if request.urgent else self._others).append(request)

    def put_back(self, requests: list[Request]) -> None:
        """They had their turn before, and come first again."""
        for request in reversed(requests):
            (self._urgent if request.urgent else self._others).appendleft(request)

    def take(self, most: int) -> list[Request]:
        taken: list[Request] = []
        for waiting in (self._urgent, self._others):
            if waiting:
                taken += [waiting.popleft() for _ in range(min(len(waiting), most - len(taken)))]
        return taken

    def take_all(self) -> list[Request]:
        return self.take(len(self))

    def overdue(self, since: float) -> list[Request]:
        """Take out those that were given to the pool before `since`."""
        late: list[Request] = []
        for waiting in (self._urgent, self._others):
            while waiting and waiting[0].started < since:
                late.append(waiting.popleft())
        return late
