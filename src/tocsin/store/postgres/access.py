"""Access on PostgreSQL: sessions and keys, stored as hashes, remembered in memory once seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tocsin.domain.events import UserId
from tocsin.store.audit_chain import Action, Change, Detail
from tocsin.store.postgres.audit import PostgresAudit
from tocsin.store.postgres.clock import DatabaseClock
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.signals import PostgresSignals
from tocsin.store.postgres.wakes import Wakes
from tocsin.store.records import NO_LIMITS, AccessRevoked, ApiKey, KeyLimits, Role, Session, Signal
from tocsin.store.secrets import Holder, Remembered, hash_of, new_key, new_session

_SESSION: Final = "SELECT id, owner::text, created_ms, expires_ms FROM session"
_KEY: Final = "SELECT id, role, name, created_ms, expires_ms, limits FROM api_key"
_NEW_SESSION: Final = "INSERT INTO session(hash, id, owner, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5)"
_NEW_KEY: Final = """INSERT INTO api_key(hash, id, role, name, created_ms, expires_ms, limits)
    VALUES ($1, $2, $3, $4, $5, $6, $7)"""

_encode = msgspec.json.Encoder().encode
_decode_limits = msgspec.json.Decoder(KeyLimits).decode


class PostgresAccess:
    """See `ports.Access`."""

    def __init__(
        self, database: Database, signals: PostgresSignals, wakes: Wakes, clock: DatabaseClock, audit: PostgresAudit
    ) -> None:
        self._database = database
        self._signals = signals
        self._wakes = wakes
        self._clock = clock
        self._audit = audit
        self._sessions: Remembered[Session] = Remembered()
        self._keys: Remembered[ApiKey] = Remembered()
        self._revocations = 0
        signals.when_elsewhere(self._changed_elsewhere)

    def forget(self) -> None:
        """What was remembered may have been revoked by another process."""
        self._revocations += 1
        self._sessions.forget()
        self._keys.forget()

    def _changed_elsewhere(self, signal: Signal) -> None:
        if isinstance(signal, AccessRevoked):
            self.forget()

    async def create_session(self, owner: UserId | None, expires_ms: int | None) -> tuple[str, Session]:
        secret, session = new_session(owner, self._clock.now_ms(), expires_ms)
        values = (hash_of(secret), session.id, owner, session.created_ms, expires_ms)
        change = Change(Action.SESSION_CREATE, session.id, {"expires_ms": expires_ms}, owner)
        await self._insert(_NEW_SESSION, values, change)
        return secret, session

    async def create_key(
        self, role: Role, name: str, expires_ms: int | None, limits: KeyLimits = NO_LIMITS
    ) -> tuple[str, ApiKey]:
        secret, key = new_key(role, name, self._clock.now_ms(), expires_ms, limits)
        stored = None if limits == NO_LIMITS else _encode(limits).decode()
        values = (hash_of(secret), key.id, role.value, name, key.created_ms, expires_ms, stored)
        details: dict[str, Detail] = {"role": role, "name": name, "expires_ms": expires_ms, "limits": stored}
        await self._insert(_NEW_KEY, values, Change(Action.KEY_CREATE, key.id, details))
        return secret, key

    async def session(self, secret: str) -> Session | None:
        return await self._open(secret, _SESSION, self._sessions, _session)

    async def key(self, secret: str) -> ApiKey | None:
        return await self._open(secret, _KEY, self._keys, _key)

    async def sessions(self, owner: UserId | None = None) -> list[Session]:
        query = f"{_SESSION} WHERE $1::uuid IS NULL OR owner = $1 ORDER BY created_ms, id"
        return [_session(row) for row in await self._database.read(lambda one: one.fetch(query, owner))]

    async def keys(self) -> list[ApiKey]:
        rows = await self._database.read(lambda one: one.fetch(f"{_KEY} ORDER BY created_ms, id"))
        return [_key(row) for row in rows]

    async def revoke_session(self, id_or_secret: str) -> bool:
        return await self._revoke("session", id_or_secret, Action.SESSION_REVOKE)

    async def revoke_key(self, id_or_secret: str) -> bool:
        return await self._revoke("api_key", id_or_secret, Action.KEY_REVOKE)

    async def _open(
        self, secret: str, query: str, remembered: Remembered[Holder], read_row: Callable[[Any], Holder]
    ) -> Holder | None:
        hashed = hash_of(secret)
        holder = remembered.get(hashed)
        if holder is None:
            revocations = self._revocations
            row = await self._database.read(lambda one: one.fetchrow(f"{query} WHERE hash = $1", hashed))
            if row is None:
                return None
            holder = read_row(row)
            if revocations == self._revocations:
                remembered.put(hashed, holder)
        if holder.expires_ms is not None and holder.expires_ms <= self._clock.now_ms():
            return None
        return holder

    async def _insert(self, statement: str, values: tuple[Any, ...], change: Change) -> None:
        note = self._audit.recording()

        async def insert(connection: Connection) -> None:
            await connection.execute(statement, *values)
            await note(connection, change)

        await self._database.write(insert)

    async def _revoke(self, table: str, id_or_secret: str, action: Action) -> bool:
        note = self._audit.recording()

        async def revoke(connection: Connection) -> bool:
            await self._signals.write(connection, [AccessRevoked()])
            statement = f"DELETE FROM {table} WHERE id = $1 OR hash = $2 RETURNING id"
            name = id_or_secret.encode("utf-8", "replace").decode()
            revoked = await connection.fetch(statement, name.replace("\0", ""), hash_of(id_or_secret))
            for (id,) in revoked:
                await note(connection, Change(action, id))
            return bool(revoked)

        revoked = await self._database.write(revoke)
        self.forget()
        self._signals.publish([AccessRevoked()])
        self._wakes.signalled()
        return revoked


def _session(row: Any) -> Session:
    id, owner, created_ms, expires_ms = row
    return Session(id, None if owner is None else UserId(owner), created_ms, expires_ms)


def _key(row: Any) -> ApiKey:
    id, role, name, created_ms, expires_ms, limits = row
    allowed = NO_LIMITS if limits is None else _decode_limits(limits)
    return ApiKey(id, Role(role), name, created_ms, expires_ms, allowed)
