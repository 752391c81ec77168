"""Opens the store that the settings name."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec

from tocsin.domain.nodes import NodeRole
from tocsin.settings import Settings
from tocsin.store.audit_chain import MAIN
from tocsin.store.master_keys import configured
from tocsin.store.ports import Store, StoreError
from tocsin.store.sealer import say_in_log


@asynccontextmanager
async def open_store(
    settings: Settings, *, server: bool = False, role: NodeRole = NodeRole.ALL, say: Callable[[str], None] = say_in_log
) -> AsyncIterator[Store]:
    """The store that `settings` names, migrated and open; `server` for a process that serves, in its `role`. `say` is
    told, for a person, what was done for the first time.

    Raises:
        StoreError: it cannot be used.
        StorageFailure: it cannot be used at present.
    """
    store = await _opened(settings, server, role, say)
    try:
        yield store
    finally:
        await store.close()


async def _opened(settings: Settings, server: bool, role: NodeRole, say: Callable[[str], None]) -> Store:
    if settings.store.is_postgres:
        return await _open_postgres(settings, server, role, say)
    if role is not NodeRole.ALL:
        raise StoreError("a store on SQLite has one process, which serves and delivers; use --role all")
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
    return await open_store(settings.store.path, options, server=server)


async def _open_postgres(settings: Settings, server: bool, role: NodeRole, say: Callable[[str], None]) -> Store:
    require_driver()
    from tocsin.store.postgres.opening import open_store
    from tocsin.store.postgres.options import PostgresOptions

    assert settings.store.url is not None
    options = PostgresOptions(
        url=settings.store.url,
        session_url=settings.store.session_url,
        password=password(settings),
        max_events=settings.store.max_backlog_events,
        max_bytes=settings.store.max_backlog_bytes,
        lease_s=settings.delivery.lease_s,
        keys=configured(settings),
        # Its own for each machine: the entries of a chain are written one after the other.
        chain=settings.audit.chain or socket.gethostname(),
        say=say,
        delivers=role.delivers,
        search=settings.store.search,
        connections=settings.store.connections,
    )
    return await open_store(options, server=server)


def require_driver() -> None:
    """Raises StoreError where the extra that PostgreSQL needs is not installed."""
    if find_spec("asyncpg") is None:
        raise StoreError("store.url names PostgreSQL, which needs more packages: run `pip install 'tocsin[postgres]'`")


def password(settings: Settings) -> str | None:
    """PostgreSQL's password, where a file has it. Raises StoreError."""
    file = settings.store.password_file
    if file is None:
        return None
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise StoreError(f"{file}: {reason}: the password of PostgreSQL cannot be read (store.password_file)") from None
