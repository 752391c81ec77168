"""Advisory locks: each is held by a session, until that ends or, where a transaction has taken it, until the end of
that."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from tests.simulator.model_store.backend import Backend

Key = tuple[int, int]


class Lock(Struct, eq=False):
    backend: Any
    key: Key
    shared: bool
    session: bool
    """Until the session ends; else until the transaction does."""


class Locks:
    def __init__(self, freed: Callable[[Hashable], None]) -> None:
        self._freed = freed
        self._held: dict[Key, list[Lock]] = {}

    def holders(self, backend: Backend, key: Key, *, shared: bool) -> list[Backend]:
        """Who keeps `backend` from taking it."""
        return [
            lock.backend
            for lock in self._held.get(key, ())
            if lock.backend is not backend and not (shared and lock.shared)
        ]

    def take(self, backend: Backend, key: Key, *, shared: bool, session: bool) -> Lock:
        lock = Lock(backend, key, shared, session)
        self._held.setdefault(key, []).append(lock)
        return lock

    def drop(self, lock: Lock) -> None:
        held = self._held.get(lock.key, [])
        if lock in held:
            held.remove(lock)
            if not held:
                del self._held[lock.key]
            self._freed(lock.key)

    def unlock(self, backend: Backend, key: Key) -> bool:
        """`pg_advisory_unlock`: one of those that the session holds."""
        for lock in self._held.get(key, ()):
            if lock.backend is backend and lock.session:
                self.drop(lock)
                return True
        return False

    def drop_all(self, backend: Backend) -> None:
        """The session has ended."""
        for held in list(self._held.values()):
            for lock in [lock for lock in held if lock.backend is backend]:
                self.drop(lock)

    def in_space(self, space: int) -> list[tuple[int, Backend]]:
        """What `pg_locks` shows of one first key: the second, and who holds it."""
        return [(lock.key[1], lock.backend) for key, held in self._held.items() if key[0] == space for lock in held]
