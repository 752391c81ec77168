"""Checks the store that the settings name, copies it, and puts a copy in its place."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from tocsin.domain.actors import Actor
from tocsin.settings import Settings
from tocsin.store.audit_chain import MAIN
from tocsin.store.master_keys import KeySource, configured
from tocsin.store.naming import public_name
from tocsin.store.opening import open_store, password, require_driver
from tocsin.store.ports import StoreError, WriteFailure
from tocsin.store.records import GivenUp
from tocsin.store.sealing import MasterKey, missing


def name(settings: Settings) -> str:
    """What messages call the store."""
    return public_name(settings.store.url or "") if settings.store.is_postgres else str(settings.store.path)


def place(settings: Settings) -> str:
    """Where exactly the store is."""
    return name(settings) if settings.store.is_postgres else str(settings.store.path.absolute())


def exists(settings: Settings) -> bool:
    """Whether there is a store: something with its name, whatever it is, and whoever may read it.

    A database on a server is taken for one: to open it says what is wrong with it."""
    if settings.store.is_postgres:
        return True
    try:
        settings.store.path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # A directory that may not be searched, for example: to open it says what.
        return True
    return True


def files(settings: Settings) -> list[Path]:
    """The files of the store that are there: its data, and the locks beside it. The master keys are not among them."""
    if settings.store.is_postgres:
        return []
    from tocsin.store.sqlite import maintenance

    return maintenance.files(settings.store.path)


def directory(settings: Settings) -> Path | None:
    """Where the store's files are; None where a server of its own keeps them."""
    return None if settings.store.is_postgres else settings.store.path.parent


def weaknesses(settings: Settings) -> list[str]:
    """What the store's acknowledgements are not safe from, as it is set up; a sentence each. Raises StoreError."""
    if not settings.store.is_postgres:
        return []
    require_driver()
    from tocsin.store.postgres import maintenance as of_postgres

    return asyncio.run(of_postgres.weaknesses(settings.store.direct_url, password(settings)))


def unseen(settings: Settings) -> list[str]:
    """What a check of the store cannot see with the rights it has; a sentence each. Raises StoreError."""
    if not settings.store.is_postgres:
        return []
    require_driver()
    from tocsin.store.postgres import maintenance as of_postgres

    return asyncio.run(of_postgres.unseen(settings.store.direct_url, password(settings)))


def is_served(settings: Settings) -> bool:
    """Whether a server delivers from the store."""
    if settings.store.is_postgres:
        require_driver()
        from tocsin.store.postgres import maintenance as of_postgres

        return asyncio.run(of_postgres.is_served(settings.store.direct_url, password(settings)))
    from tocsin.store.sqlite import locks

    return locks.is_served(settings.store.path)


def check(settings: Settings) -> list[str]:
    """What is wrong with the store, as sentences; an empty list says that all is well. A server may be running."""
    if settings.store.is_postgres:
        findings = _findings_of_postgres(settings)
    else:
        from tocsin.store.sqlite import maintenance

        findings = maintenance.check(settings.store.path)
    if not findings:
        try:
            _refuse_missing_keys(settings, settings.store.path)
        except StoreError as error:
            findings.append(str(error))
    return findings


def backup(settings: Settings, target: Path, copied: Callable[[int, int], None]) -> None:
    """Copy the store to a new file, as it is at one instant. The master keys are not in it. A server may be running.
    `copied` is told how much is copied, of how much.

    Raises:
        StoreError: the store cannot be read, or the copy not be written.
    """
    from tocsin.store.sqlite import maintenance

    _refuse_postgres(settings, "`pg_basebackup` copies it; see docs/scale.md")
    maintenance.backup(settings.store.path, target, copied)


def restore(settings: Settings, copy: Path, actor: Actor, copied: Callable[[int, int], None]) -> bool:
    """Put a copy in the place of the store, whose content is lost. No server may be running.

    The copy's audit log tells of it before it is put there, with the head of the chain that was lost. Returns whether
    it does: a copy of an older version may have no such log.

    Raises:
        StoreError: a server is running, or `copy` cannot be used, or a master key that its credentials need is not
            there. Then the store is left as it is.
    """
    from tocsin.store.sqlite import maintenance

    _refuse_postgres(settings, "use the recovery of a base backup; see docs/scale.md")
    _refuse_missing_keys(settings, copy)
    restored_by = (actor, settings.audit.chain or MAIN)
    return maintenance.restore(settings.store.path, copy, restored_by=restored_by, copied=copied)


def keys(settings: Settings) -> KeySource:
    """Where the master keys of the store are."""
    return configured(settings)


def add_key(settings: Settings) -> MasterKey | None:
    """Make a new master key, the newest from now on; None where the keys are not tocsin's to write.

    Raises:
        StoreError: a key that the store needs is missing, or a new one cannot be written.
    """
    _refuse_missing_keys(settings, settings.store.path)
    return configured(settings).add(os.urandom)


def give_up_key(settings: Settings, key_id: str, actor: Actor) -> GivenUp:
    """End all that only this master key could open, which is lost for good. No server may be running.

    Raises:
        StoreError: the key is there, or the store does not need it, or a server is running; nothing was changed.
    """
    path = settings.store.path
    used, known = _used_keys(settings, path), configured(settings).read()
    if key_id not in used:
        which = f"it needs {', '.join(used)}" if used else "it needs none"
        raise StoreError(f"{name(settings)}: does not need a master key {key_id!r}; {which}")
    if known is not None and key_id in known:
        raise StoreError(f"{name(settings)}: the master key {key_id} is not lost: it is in {configured(settings)}")
    if settings.store.is_postgres:
        return asyncio.run(_give_up_on_postgres(settings, key_id, actor))
    from tocsin.store.sqlite import lost_keys

    chain = settings.audit.chain or MAIN
    return lost_keys.give_up(path, key_id, int(time.time() * 1000), actor=actor, chain=chain)


async def _give_up_on_postgres(settings: Settings, key_id: str, actor: Actor) -> GivenUp:
    from tocsin.store.postgres import lost_keys
    from tocsin.store.postgres.store import PostgresStore

    async with open_store(settings) as store:
        assert isinstance(store, PostgresStore)
        try:
            return await lost_keys.give_up(store, key_id, actor)
        except WriteFailure as error:
            raise StoreError(f"{name(settings)}: {error}") from None


def _refuse_missing_keys(settings: Settings, path: Path) -> None:
    if used := _used_keys(settings, path):
        known = configured(settings).read()
        if absent := [key_id for key_id in used if known is None or key_id not in known]:
            raise missing(absent)


def _used_keys(settings: Settings, path: Path) -> list[str]:
    if settings.store.is_postgres:
        require_driver()
        from tocsin.store.postgres import maintenance as of_postgres

        return asyncio.run(of_postgres.used_keys(settings.store.direct_url, password(settings)))
    from tocsin.store.sqlite import maintenance

    return maintenance.used_keys(path)


def _findings_of_postgres(settings: Settings) -> list[str]:
    require_driver()
    from tocsin.store.postgres import maintenance as of_postgres

    keep_s = settings.store.retention.total_seconds()
    return asyncio.run(of_postgres.check(settings.store.direct_url, password(settings), keep_s=keep_s))


def _refuse_postgres(settings: Settings, instead: str) -> None:
    if settings.store.is_postgres:
        raise StoreError(f"{name(settings)}: a store on PostgreSQL is copied and restored by its own means: {instead}")
