"""Credentials on PostgreSQL: with what the providers are reached. Their contents are sealed."""

from __future__ import annotations

from typing import Final

from tocsin.domain.credentials import Check, Credential
from tocsin.store.audit_chain import Action, Change, Detail
from tocsin.store.postgres.audit import PostgresAudit
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.schema import LOCK_SPACE
from tocsin.store.postgres.signals import PostgresSignals
from tocsin.store.postgres.wakes import Wakes
from tocsin.store.records import CredentialsChanged, Signal
from tocsin.store.sealer import Sealer, credential_identity
from tocsin.store.sealing import Sealed
from tocsin.store.share import Share, Told

_CHANGING: Final = 3
_OF: Final = (
    "SELECT account, content, is_default, changed_ms, key_id FROM credential WHERE provider = $1"
    ' ORDER BY account COLLATE "C"'
)
_ALL: Final = "SELECT provider, account, content, key_id FROM credential ORDER BY provider, account FOR UPDATE"
_REWRAP: Final = "UPDATE credential SET content = $1, key_id = $2 WHERE provider = $3 AND account = $4"
_NO_OTHER_DEFAULT: Final = "UPDATE credential SET is_default = false WHERE provider = $1 AND is_default"
_OTHER_DEFAULT: Final = "SELECT 1 FROM credential WHERE provider = $1 AND account <> $2 AND is_default"
_PUT: Final = """INSERT INTO credential(provider, account, content, is_default, changed_ms, key_id)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (provider, account) DO UPDATE SET content = $3, is_default = $4, changed_ms = $5, key_id = $6"""
_REMOVE: Final = "DELETE FROM credential WHERE provider = $1 AND account = $2 RETURNING account"
# `changed_ms` tells the credential that was checked from those after it, which a node of an older version may have put.
_NOTE_CHECK: Final = """INSERT INTO credential_check(provider, account, changed_ms, at_ms, sandbox, ok, sentence)
    SELECT provider, account, changed_ms, $4, $5, $6, $7 FROM credential
    WHERE provider = $1 AND account = $2 AND changed_ms = $3
    ON CONFLICT (provider, account) DO UPDATE SET changed_ms = $3, at_ms = $4, sandbox = $5, ok = $6, sentence = $7"""
_CHECKS: Final = """SELECT account, at_ms, sandbox, ok, sentence
    FROM credential JOIN credential_check USING (provider, account, changed_ms) WHERE provider = $1"""
_FORGET_CHECK: Final = "DELETE FROM credential_check WHERE provider = $1 AND account = $2"
_USED: Final = """SELECT key_id FROM credential UNION SELECT key_id FROM content_key UNION SELECT key_id FROM kept_key
    UNION SELECT key_id FROM pseudonym ORDER BY key_id"""
_OTHERS: Final = (
    ("content_key", "content key", "id"),
    ("kept_key", "kept key", "name"),
    ("pseudonym", "pseudonym", "owner"),
)
"""More tables with sealed records: as what their rows are sealed, and by which column they are known."""
_COUNT: Final = "SELECT " + " + ".join(
    f"(SELECT count(*) FROM {table})" for table in ("credential", *(one for one, _, _ in _OTHERS))
)
_ONE_AT_A_TIME: Final = f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, {_CHANGING})"


async def used_keys(connection: Connection) -> list[str]:
    """The ids of the master keys that the store's records need."""
    return [row[0] for row in await connection.fetch(_USED)]


class PostgresCredentials:
    """See `ports.Credentials`. They are few, and asked for at every registration: all of them stay in memory."""

    def __init__(
        self, database: Database, signals: PostgresSignals, wakes: Wakes, sealer: Sealer, audit: PostgresAudit
    ) -> None:
        self._database = database
        self._signals = signals
        self._wakes = wakes
        self._sealer = sealer
        self._audit = audit
        self._known: dict[str, list[Credential]] = {}
        self._changes = 0
        signals.when_elsewhere(self._changed_elsewhere)

    def forget(self) -> None:
        """They were changed: read them again when next asked."""
        self._known.clear()
        self._changes += 1

    def _changed_elsewhere(self, signal: Signal) -> None:
        if isinstance(signal, CredentialsChanged):
            self.forget()

    async def of(self, provider: str) -> list[Credential]:
        known = self._known.get(provider)
        if known is None:
            changes = self._changes
            rows = await self._database.read(lambda one: one.fetch(_OF, provider))
            known = []
            for account, record, default, changed_ms, key_id in rows:
                content = self._sealer.open(credential_identity(provider, account), Sealed(key_id, record))
                known.append(Credential(provider, account, content, default, changed_ms))
            if changes == self._changes:  # else changed while it was read: right for this caller, not to be kept
                self._known[provider] = known
        return known

    async def put(self, credential: Credential) -> None:
        provider, account = credential.provider, credential.account
        sealed = self._sealer.seal(credential_identity(provider, account), credential.content)
        note = self._audit.recording()

        async def put(connection: Connection) -> None:
            await connection.execute(_ONE_AT_A_TIME)
            default = credential.default or await connection.fetchval(_OTHER_DEFAULT, provider, account) is None
            if default:
                await connection.execute(_NO_OTHER_DEFAULT, provider)
            row = (provider, account, sealed.record, default, credential.changed_ms, sealed.key_id)
            await connection.execute(_PUT, *row)
            await connection.execute(_FORGET_CHECK, provider, account)
            await self._signals.write(connection, [CredentialsChanged(provider)])
            await note(connection, Change(Action.CREDENTIAL_PUT, f"{provider}:{account}", {"default": default}))

        await self._database.write(put)
        self._changed(provider)

    async def remove(self, provider: str, account: str) -> bool:
        note = self._audit.recording()

        async def remove(connection: Connection) -> bool:
            await connection.execute(_ONE_AT_A_TIME)
            await self._signals.write(connection, [CredentialsChanged(provider)])
            removed = bool(await connection.fetch(_REMOVE, provider, account))
            await connection.execute(_FORGET_CHECK, provider, account)
            if removed:
                await note(connection, Change(Action.CREDENTIAL_REMOVE, f"{provider}:{account}"))
            return removed

        removed = await self._database.write(remove)
        self._changed(provider)
        return removed

    async def note_check(self, credential: Credential, check: Check) -> None:
        row = (credential.provider, credential.account, credential.changed_ms)
        found = (check.at_ms, check.sandbox, check.ok, check.sentence)
        await self._database.statement(lambda one: one.execute(_NOTE_CHECK, *row, *found))

    async def checks(self, provider: str) -> dict[str, Check]:
        rows = await self._database.read(lambda one: one.fetch(_CHECKS, provider))
        return {
            account: Check(at_ms=at_ms, sandbox=sandbox, ok=ok, sentence=sentence)
            for account, at_ms, sandbox, ok, sentence in rows
        }

    async def rewrap(self, looked_at: Told | None = None) -> int:
        self._sealer.refresh()
        note = self._audit.recording()

        async def rewrap(connection: Connection) -> tuple[list[str], int]:
            rewrapped, others = list[str](), 0
            share = Share(await connection.fetchval(_COUNT), looked_at)
            for provider, account, record, key_id in await connection.fetch(_ALL):
                share.more()
                sealed = self._sealer.rewrap(credential_identity(provider, account), Sealed(key_id, record))
                if sealed is not None:
                    await connection.execute(_REWRAP, sealed.record, sealed.key_id, provider, account)
                    rewrapped.append(provider)
            for table, kind, column in _OTHERS:
                for key, key_id, record in await connection.fetch(f"SELECT {column}, key_id, record FROM {table}"):
                    share.more()
                    if (sealed := self._sealer.rewrap(f"{kind} {key}", Sealed(key_id, record))) is not None:
                        await connection.execute(
                            f"UPDATE {table} SET record = $1, key_id = $2 WHERE {column} = $3",
                            sealed.record,
                            sealed.key_id,
                            key,
                        )
                        others += 1
            changed = [CredentialsChanged(provider) for provider in sorted(set(rewrapped))]
            await self._signals.write(connection, changed)
            details: dict[str, Detail] = {"master_key": self._sealer.current_id, "records": len(rewrapped) + others}
            await note(connection, Change(Action.STORE_REKEY, details=details))
            return rewrapped, others

        rewrapped, others = await self._database.write(rewrap)
        for provider in sorted(set(rewrapped)):
            self._changed(provider)
        return len(rewrapped) + others

    def _changed(self, provider: str) -> None:
        self.forget()
        self._signals.publish([CredentialsChanged(provider)])
        self._wakes.signalled()
