"""Opens the store that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tocsin.settings import Settings
from tocsin.store.audit_chain import MAIN
from tocsin.store.master_keys import configured
from tocsin.store.ports import Store
from tocsin.store.sealer import say_in_log


@asynccontextmanager
async def open_store(
    settings: Settings, *, server: bool = False, say: Callable[[str], None] = say_in_log
) -> AsyncIterator[Store]:
    """The store that `settings` names, migrated and open; `server` for a process that delivers from it. `say` is told,
    for a person, what was done for the first time.

    Raises:
        StoreError: it cannot be used.
        StorageFailure: it cannot be used at present.
    """
    from tocsin.store.sqlite.opening import open_store
    from tocsin.store.sqlite.store import SqliteOptions

    options = SqliteOptions(
        max_events=settings.store.max_backlog_events,
        max_bytes=settings.store.max_backlog_bytes,
        lease_s=settings.delivery.lease_s,
        keys=configured(settings),
        chain=settings.audit.chain or MAIN,
        say=say,
        search=settings.store.search,
    )
    store = await open_store(settings.store.path, options, server=server)
    try:
        yield store
    finally:
        await store.close()
