"""Requests that wait for a stream: the urgent ones first, each kind in the order in which it came, groups in turn.

No group takes all streams: it may have as many as it leaves free. So a group whose requests are never answered holds
half of them, the next one like it half of the rest, and there is always something left for the others (the dynamic
threshold of Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Generic

from tocsin.http2.messages import R


class _Group(Generic[R]):
    """The requests of one group that wait, and how many of it have a stream."""

    __slots__ = ("name", "others", "streams", "urgent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.urgent: deque[R] = deque()
        self.others: deque[R] = deque()
        self.streams = 0

    def __len__(self) -> int:
        return len(self.urgent) + len(self.others)

    def allowed(self, free: int) -> int:
        """How many of its requests may be sent while `free` streams are free; one in any case if it has none."""
        if not self.name:
            return len(self)
        allowed = (free - self.streams) // 2
        return allowed if allowed > 0 else int(self.streams == 0)


class Waiting(Generic[R]):
    """Of each group two queues, one of urgent requests and one of the others. Requests whose `group` is empty belong to
    none: they may have every stream."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group[R]] = {}
        """All that have requests here, or streams."""
        self._waiting: dict[str, _Group[R]] = {}
        """Those that have requests here, in the order of their turns."""

    def __len__(self) -> int:
        return sum([len(group) for group in self._waiting.values()])

    def ready(self, free: int) -> int:
        """How many may be taken while `free` streams are free; approximate where there are several groups."""
        return sum([min(len(group), group.allowed(free)) for group in self._waiting.values()])

    def add(self, requests: Iterable[R]) -> None:
        """Append, each to the queue of its kind."""
        group: _Group[R] | None = None
        for request in requests:
            if group is None or group.name != request.group:
                group = self._of(request.group)
            if request.urgent:
                group.urgent.append(request)
            else:
                group.others.append(request)

    def put_back(self, requests: list[R]) -> None:
        """Put requests that had been taken at the front again, in their order."""
        for request in reversed(requests):
            group = self._of(request.group)
            (group.urgent if request.urgent else group.others).appendleft(request)

    def take(self, most: int, free: int) -> list[R]:
        """Remove and return up to `most` requests, each of which has a stream until it is `returned`."""
        taken: list[R] = []
        for urgent in (True, False):
            while (room := most - len(taken)) > 0:
                groups = [
                    group
                    for group in self._waiting.values()
                    if (group.urgent if urgent else group.others) and group.allowed(free)
                ]
                if not groups:
                    break
                each = max(1, room // len(groups))
                for group in groups[:room]:
                    count = min(each, group.allowed(free))
                    own = _take(group.urgent if urgent else group.others, count)
                    taken += own
                    free -= len(own)
                    group.streams += len(own)
                    # It is the last one's turn now, if any of it is left.
                    del self._waiting[group.name]
                    if group:
                        self._waiting[group.name] = group
        return taken

    def returned(self, requests: Sequence[R]) -> None:
        """These do not have their streams any more."""
        for name, count in Counter([request.group for request in requests]).items():
            group = self._groups[name]
            group.streams -= count
            self._forget(group)

    def take_all(self) -> list[R]:
        """Remove and return all requests; they get no streams."""
        return self._take_from(list(self._waiting.values()))

    def take_group(self, name: str) -> list[R]:
        """The same for those of one group."""
        group = self._waiting.get(name)
        return [] if group is None else self._take_from([group])

    def _take_from(self, groups: Sequence[_Group[R]]) -> list[R]:
        taken = [request for group in groups for request in group.urgent]
        taken += [request for group in groups for request in group.others]
        for group in groups:
            group.urgent.clear()
            group.others.clear()
            self._forget(group)
        return taken

    def overdue(self, since: float) -> list[R]:
        """Remove and return those that were given to the pool before `since` (`loop.time()`)."""
        late: list[R] = []
        for group in list(self._waiting.values()):
            for waiting in (group.urgent, group.others):
                while waiting and waiting[0].started < since:
                    late.append(waiting.popleft())
            self._forget(group)
        return late

    def _of(self, name: str) -> _Group[R]:
        """The group, in whose queues something is about to wait."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name)
        self._waiting.setdefault(name, group)
        return group

    def _forget(self, group: _Group[R]) -> None:
        if not group:
            self._waiting.pop(group.name, None)
            if not group.streams:
                del self._groups[group.name]


def _take(waiting: deque[R], count: int) -> list[R]:
    if count < len(waiting):
        return [waiting.popleft() for _ in range(count)]
    taken = list(waiting)
    waiting.clear()
    return taken
