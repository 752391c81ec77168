"""The tables with sealed records: which master keys they need, and how all of them come under the newest.

When the store is opened, the master keys are found here, and credentials that are still in clear are encrypted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final, NamedTuple

from tocsin.store.master_keys import KeySource
from tocsin.store.sealer import Sealer
from tocsin.store.sealing import RandomBytes, Sealed, missing
from tocsin.store.share import Share, Told


class _Table(NamedTuple):
    """A table whose rows are sealed as `kind` and their keys."""

    name: str
    kind: str
    keys: tuple[str, ...]
    record: str = "record"


_CREDENTIALS: Final = _Table("credential", "credential", ("provider", "account"), "content")
_TABLES: Final = (
    _CREDENTIALS,
    _Table("content_key", "content key", ("id",)),
    _Table("kept_key", "kept key", ("name",)),
    _Table("pseudonym", "pseudonym", ("owner",)),
)
_EXISTING: Final = "SELECT name FROM sqlite_master WHERE type = 'table'"
_IN_CLEAR: Final = "SELECT provider, account, content FROM credential WHERE key_id IS NULL"
_SEAL: Final = "UPDATE credential SET content = ?, key_id = ? WHERE provider = ? AND account = ?"


def identity(provider: str, account: str) -> str:
    """As what a credential is sealed."""
    return f"credential {provider} {account}"


def used_keys(driver: sqlite3.Connection) -> list[str]:
    """The ids of the master keys that the store's records need. The store may be of an older version."""
    existing = {name for (name,) in driver.execute(_EXISTING)}
    found: set[str] = set()
    for table in _TABLES:
        if table.name in existing:
            used = f"SELECT DISTINCT key_id FROM {table.name} WHERE key_id IS NOT NULL"
            found |= {key_id for (key_id,) in driver.execute(used)}
    return sorted(found)


def rewrap(driver: sqlite3.Connection, sealer: Sealer, looked_at: Told | None) -> tuple[int, set[str]]:
    """Bring every record under the newest master key; how many were under another, and the providers of credentials
    that were. `looked_at`: see `ports.Credentials.rewrap`.

    Raises:
        SealError: a record cannot be opened.
    """
    count, providers = 0, set[str]()
    total = sum(driver.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0] for table in _TABLES)
    share = Share(total, looked_at)
    for table in _TABLES:
        keys, where = ", ".join(table.keys), " AND ".join(f"{key} = ?" for key in table.keys)
        select = f"SELECT key_id, {table.record}, {keys} FROM {table.name}"
        for key_id, record, *values in driver.execute(select).fetchall():
            share.more()
            sealed = sealer.rewrap(" ".join((table.kind, *map(str, values))), Sealed(key_id, bytes(record)))
            if sealed is not None:
                change = f"UPDATE {table.name} SET {table.record} = ?, key_id = ? WHERE {where}"
                driver.execute(change, (sealed.record, sealed.key_id, *values))
                count += 1
                if table is _CREDENTIALS:
                    providers.add(values[0])
    return count, providers


def open_sealer(
    driver: sqlite3.Connection,
    source: KeySource,
    random: RandomBytes,
    *,
    server: bool,
    say: Callable[[str], None],
) -> Sealer:
    """The sealer of a store that is being opened: by nobody else meanwhile, and with `secure_delete` on.

    A server must be able to read every record. A command need not: it may be there to remove what cannot be read.
    `say` is told, for a person, what was done for the first time.

    Raises:
        StoreError: the keys cannot be had, or one is missing.
    """
    keys, used = source.read(), used_keys(driver)
    if server and (absent := [key_id for key_id in used if keys is None or key_id not in keys]):
        raise missing(absent)
    sealer = Sealer(source, keys, random, say, used=used)
    if server:
        sealer.make_first_key()
    _seal_rest(driver, sealer, say)
    return sealer


def _seal_rest(driver: sqlite3.Connection, sealer: Sealer, say: Callable[[str], None]) -> None:
    """Encrypt the credentials that an earlier version has stored in clear."""
    if not (rows := driver.execute(_IN_CLEAR).fetchall()):
        return
    driver.execute("BEGIN IMMEDIATE")
    for provider, account, content in rows:
        sealed = sealer.seal(identity(provider, account), bytes(content))
        driver.execute(_SEAL, (sealed.record, sealed.key_id, provider, account))
    driver.execute("COMMIT")
    # The log still has the pages as they were.
    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    say(f"{len(rows)} credentials in the store were encrypted; copies of the store from before have them in clear")
