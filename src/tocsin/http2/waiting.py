"""Requests that wait for a stream: the urgent ones first, each kind in the order in which it came."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic

from tocsin.http2.messages import R


class Waiting(Generic[R]):
    """Two queues, one of urgent requests and one of the others."""

    def __init__(self) -> None:
        self._urgent: deque[R] = deque()
        self._others: deque[R] = deque()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    def add(self, requests: Iterable[R]) -> None:
        """Append, each to the queue of its kind."""
        urgent, others = self._urgent.append, self._others.append
        for request in requests:
            if request.urgent:
                urgent(request)
            else:
                others(request)

    def put_back(self, requests: list[R]) -> None:
        """Put requests that had been taken at the front again, in their order."""
        for request in reversed(requests):
            (self._urgent if request.urgent else self._others).appendleft(request)

    def take(self, most: int) -> list[R]:
        """Remove and return up to `most` requests."""
        taken: list[R] = []
        for waiting in (self._urgent, self._others):
            room = most - len(taken)
            if len(waiting) <= room:
                taken += waiting
                waiting.clear()
            else:
                taken += [waiting.popleft() for _ in range(room)]
        return taken

    def take_all(self) -> list[R]:
        """Remove and return all requests."""
        return self.take(len(self))

    def overdue(self, since: float) -> list[R]:
        """Remove and return those that were given to the pool before `since` (`loop.time()`)."""
        late: list[R] = []
        for waiting in (self._urgent, self._others):
            while waiting and waiting[0].started < since:
                late.append(waiting.popleft())
        return late
