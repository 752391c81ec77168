"""Finds the master keys when the store is opened, and encrypts the credentials that are still in clear."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from tocsin.store.master_keys import KeySource
from tocsin.store.sealer import Sealer
from tocsin.store.sealing import RandomBytes, missing

_USED: Final = "SELECT DISTINCT key_id FROM credential WHERE key_id IS NOT NULL ORDER BY key_id"
_IN_CLEAR: Final = "SELECT provider, account, content FROM credential WHERE key_id IS NULL"
_SEAL: Final = "UPDATE credential SET content = ?, key_id = ? WHERE provider = ? AND account = ?"


def identity(provider: str, account: str) -> str:
    """As what a credential is sealed."""
    return f"credential {provider} {account}"


def used_keys(driver: sqlite3.Connection) -> list[str]:
    """The ids of the master keys that the store's records need."""
    return [key_id for (key_id,) in driver.execute(_USED)]


def open_sealer(
    driver: sqlite3.Connection,
    source: KeySource,
    random: RandomBytes,
    *,
    server: bool,
    say: Callable[[str], None],
) -> Sealer:
    """The sealer of a store that is being opened: by nobody else meanwhile, and with `secure_delete` on.

    A server must be able to read every credential. A command need not: it may be there to remove what cannot be read.
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
