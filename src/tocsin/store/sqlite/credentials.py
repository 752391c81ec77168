"""Credentials on SQLite: with what the providers are reached."""

from __future__ import annotations

import sqlite3
from typing import Final

from tocsin.domain.credentials import Credential
from tocsin.store.records import CredentialsChanged
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.signals import SqliteSignals

_OF: Final = (
    "SELECT provider, account, content, is_default, changed_ms FROM credential WHERE provider = ? ORDER BY account"
)
_NO_OTHER_DEFAULT: Final = "UPDATE credential SET is_default = 0 WHERE provider = ?"
_OTHER_DEFAULT: Final = "SELECT 1 FROM credential WHERE provider = ? AND account != ? AND is_default"
_PUT: Final = """INSERT INTO credential(provider, account, content, is_default, changed_ms) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT(provider, account) DO UPDATE SET content = ?3, is_default = ?4, changed_ms = ?5"""
_REMOVE: Final = "DELETE FROM credential WHERE provider = ? AND account = ?"


class SqliteCredentials:
    """See `ports.Credentials`. They are few, and asked for at every registration: all of them stay in memory."""

    def __init__(self, database: Database, signals: SqliteSignals) -> None:
        self._database = database
        self._signals = signals
        self._known: dict[str, list[Credential]] = {}
        self._changes = 0

    def forget(self) -> None:
        """They were changed: read them again when next asked."""
        self._known.clear()
        self._changes += 1

    async def of(self, provider: str) -> list[Credential]:
        known = self._known.get(provider)
        if known is None:
            changes = self._changes
            known = await self._database.read(lambda driver: _read(driver, provider))
            if changes == self._changes:  # else changed while it was read: right for this caller, not to be kept
                self._known[provider] = known
        return known

    async def put(self, credential: Credential) -> None:
        provider, account = credential.provider, credential.account

        def put(driver: sqlite3.Connection) -> None:
            default = credential.default or driver.execute(_OTHER_DEFAULT, (provider, account)).fetchone() is None
            if default:
                driver.execute(_NO_OTHER_DEFAULT, (provider,))
            driver.execute(_PUT, (provider, account, credential.content, int(default), credential.changed_ms))
            self._signals.write(driver, [CredentialsChanged(provider)])

        await self._database.write(put)
        self._changed(provider)

    async def remove(self, provider: str, account: str) -> bool:
        def remove(driver: sqlite3.Connection) -> bool:
            self._signals.write(driver, [CredentialsChanged(provider)])
            return driver.execute(_REMOVE, (provider, account)).rowcount > 0

        removed = await self._database.write(remove)
        self._changed(provider)
        return removed

    def _changed(self, provider: str) -> None:
        self.forget()
        self._signals.publish([CredentialsChanged(provider)])


def _read(driver: sqlite3.Connection, provider: str) -> list[Credential]:
    return [
        Credential(provider, account, bytes(content), bool(default), changed_ms)
        for provider, account, content, default, changed_ms in driver.execute(_OF, (provider,)).fetchall()
    ]
