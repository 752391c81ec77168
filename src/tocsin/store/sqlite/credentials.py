"""Credentials on SQLite: with what the providers are reached. Their contents are sealed."""

from __future__ import annotations

import sqlite3
from typing import Final

from tocsin.domain.credentials import Check, Credential
from tocsin.store.audit_chain import Action, Change
from tocsin.store.records import CredentialsChanged
from tocsin.store.sealer import Sealer
from tocsin.store.sealing import Sealed
from tocsin.store.share import Told
from tocsin.store.sqlite import sealed_rows
from tocsin.store.sqlite.audit import SqliteAudit
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.sealed_rows import identity
from tocsin.store.sqlite.signals import SqliteSignals

_OF: Final = (
    "SELECT account, content, is_default, changed_ms, key_id FROM credential WHERE provider = ? ORDER BY account"
)
_NO_OTHER_DEFAULT: Final = "UPDATE credential SET is_default = 0 WHERE provider = ?"
_OTHER_DEFAULT: Final = "SELECT 1 FROM credential WHERE provider = ? AND account != ? AND is_default"
_PUT: Final = """INSERT INTO credential(provider, account, content, is_default, changed_ms, key_id)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT(provider, account) DO UPDATE SET content = ?3, is_default = ?4, changed_ms = ?5, key_id = ?6"""
_REMOVE: Final = "DELETE FROM credential WHERE provider = ? AND account = ?"
# `changed_ms` tells the credential that was checked from those after it.
_NOTE_CHECK: Final = """INSERT INTO credential_check(provider, account, changed_ms, at_ms, sandbox, ok, sentence)
    SELECT provider, account, changed_ms, ?4, ?5, ?6, ?7 FROM credential
    WHERE provider = ?1 AND account = ?2 AND changed_ms = ?3
    ON CONFLICT(provider, account) DO UPDATE SET changed_ms = ?3, at_ms = ?4, sandbox = ?5, ok = ?6, sentence = ?7"""
_CHECKS: Final = """SELECT account, at_ms, sandbox, ok, sentence
    FROM credential JOIN credential_check USING (provider, account, changed_ms) WHERE provider = ?"""
_FORGET_CHECK: Final = "DELETE FROM credential_check WHERE provider = ? AND account = ?"


class SqliteCredentials:
    """See `ports.Credentials`. They are few, and asked for at every registration: all of them stay in memory."""

    def __init__(self, database: Database, signals: SqliteSignals, audit: SqliteAudit, sealer: Sealer) -> None:
        self._database = database
        self._audit = audit
        self._sealer = sealer
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
            known = await self._database.read(lambda driver: self._read(driver, provider))
            if changes == self._changes:  # else changed while it was read: right for this caller, not to be kept
                self._known[provider] = known
        return known

    async def put(self, credential: Credential) -> None:
        self._database.refuse_if_damaged()
        provider, account = credential.provider, credential.account
        sealed = self._sealer.seal(identity(provider, account), credential.content)
        note = self._audit.recording()

        def put(driver: sqlite3.Connection) -> None:
            default = credential.default or driver.execute(_OTHER_DEFAULT, (provider, account)).fetchone() is None
            if default:
                driver.execute(_NO_OTHER_DEFAULT, (provider,))
            row = (provider, account, sealed.record, int(default), credential.changed_ms, sealed.key_id)
            driver.execute(_PUT, row)
            driver.execute(_FORGET_CHECK, (provider, account))
            self._signals.write(driver, [CredentialsChanged(provider)])
            if note is not None:
                note(driver, Change(Action.CREDENTIAL_PUT, f"{provider}:{account}", {"default": default}))

        await self._database.write(put)
        self._changed(provider)

    async def remove(self, provider: str, account: str) -> bool:
        self._database.refuse_if_damaged()
        note = self._audit.recording()

        def remove(driver: sqlite3.Connection) -> bool:
            self._signals.write(driver, [CredentialsChanged(provider)])
            removed = driver.execute(_REMOVE, (provider, account)).rowcount > 0
            driver.execute(_FORGET_CHECK, (provider, account))
            if removed and note is not None:
                note(driver, Change(Action.CREDENTIAL_REMOVE, f"{provider}:{account}"))
            return removed

        removed = await self._database.write(remove)
        self._changed(provider)
        return removed

    async def note_check(self, credential: Credential, check: Check) -> None:
        row = (credential.provider, credential.account, credential.changed_ms)
        found = (check.at_ms, check.sandbox, check.ok, check.sentence)
        await self._database.write(lambda driver: driver.execute(_NOTE_CHECK, (*row, *found)))

    async def checks(self, provider: str) -> dict[str, Check]:
        rows = await self._database.read(lambda driver: driver.execute(_CHECKS, (provider,)).fetchall())
        return {
            account: Check(at_ms=at_ms, sandbox=bool(sandbox), ok=bool(ok), sentence=sentence)
            for account, at_ms, sandbox, ok, sentence in rows
        }

    async def rewrap(self, looked_at: Told | None = None) -> int:
        self._database.refuse_if_damaged()
        note = self._audit.recording()

        def rewrap(driver: sqlite3.Connection) -> tuple[int, list[str]]:
            self._sealer.refresh()
            count, providers = sealed_rows.rewrap(driver, self._sealer, looked_at)
            self._signals.write(driver, [CredentialsChanged(provider) for provider in sorted(providers)])
            if note is not None:
                details = {"master_key": self._sealer.current_id, "records": count}
                note(driver, Change(Action.STORE_REKEY, details=details))
            return count, sorted(providers)

        count, providers = await self._database.write(rewrap)
        for provider in providers:
            self._changed(provider)
        return count

    def _changed(self, provider: str) -> None:
        self.forget()
        self._signals.publish([CredentialsChanged(provider)])

    def _read(self, driver: sqlite3.Connection, provider: str) -> list[Credential]:
        found = []
        for account, record, default, changed_ms, key_id in driver.execute(_OF, (provider,)).fetchall():
            content = self._sealer.open(identity(provider, account), Sealed(key_id, bytes(record)))
            found.append(Credential(provider, account, content, bool(default), changed_ms))
        return found
