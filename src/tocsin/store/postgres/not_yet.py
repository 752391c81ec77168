"""What this store does not do yet, said clearly to whoever asks for it."""

from __future__ import annotations

from typing import Final

from tocsin.store.ports import SearchUnavailable
from tocsin.store.records import Cursor, Findings, IndexState, Query

_NOTHING: Final = IndexState(behind_s=0.0, waiting_events=0, rebuilding=False, indexed_to_ms=None)


class NoSearch:
    """See `ports.Search`."""

    async def find(self, query: Query, limit: int, *, start: Cursor | None = None, for_s: float = 1.0) -> Findings:
        raise SearchUnavailable("a store on PostgreSQL has no index of deliveries yet; ask for an event by its id")

    async def fill(self, for_s: float) -> bool:
        return False

    async def state(self) -> IndexState:
        return _NOTHING
