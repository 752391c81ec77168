"""The store that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tocsin.settings import Settings
from tocsin.store import opening
from tocsin.store.opening import Store


@asynccontextmanager
async def open_store(settings: Settings, *, exclusive: bool = False) -> AsyncIterator[Store]:
    """The store that `settings` names, migrated and open; `exclusive` for the one server that delivers from it.

    Raises:
        StoreError: it cannot be used.
    """
    async with opening.open_store(
        settings.store.path,
        max_events=settings.store.max_backlog_events,
        max_bytes=settings.store.max_backlog_bytes,
        lease_s=settings.delivery.lease_s,
        exclusive=exclusive,
    ) as store:
        yield store
