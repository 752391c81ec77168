"""Access on SQLite: sessions and keys, stored as hashes, remembered in memory once seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, insert, or_, select

from tocsin.domain.events import UserId
from tocsin.store.audit_chain import Action, Change, Detail
from tocsin.store.records import NO_LIMITS, AccessRevoked, ApiKey, KeyLimits, Role, Session
from tocsin.store.secrets import Holder, Remembered, hash_of, new_key, new_session
from tocsin.store.sqlite import schema
from tocsin.store.sqlite.audit import SqliteAudit
from tocsin.store.sqlite.connection import raw
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.signals import SqliteSignals


class SqliteAccess:
    """See `ports.Access`."""

    def __init__(
        self, database: Database, signals: SqliteSignals, audit: SqliteAudit, *, wall_clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._audit = audit
        self._signals = signals
        self._wall_clock = wall_clock
        self._sessions: Remembered[Session] = Remembered()
        self._keys: Remembered[ApiKey] = Remembered()
        self._revocations = 0

    def forget(self) -> None:
        """Another process has changed the file: what was remembered may have been revoked."""
        self._revocations += 1
        self._sessions.forget()
        self._keys.forget()

    async def create_session(self, owner: UserId | None, expires_ms: int | None) -> tuple[str, Session]:
        secret, session = new_session(owner, self._now_ms(), expires_ms)
        change = Change(Action.SESSION_CREATE, session.id, {"expires_ms": expires_ms}, owner)
        await self._insert(schema.session, hash_of(secret), session, change)
        return secret, session

    async def create_key(
        self, role: Role, name: str, expires_ms: int | None, limits: KeyLimits = NO_LIMITS
    ) -> tuple[str, ApiKey]:
        secret, key = new_key(role, name, self._now_ms(), expires_ms, limits)
        stored = None if limits == NO_LIMITS else msgspec.json.encode(limits).decode()
        details: dict[str, Detail] = {"role": role, "name": name, "expires_ms": expires_ms, "limits": stored}
        change = Change(Action.KEY_CREATE, key.id, details)
        await self._insert(schema.api_key, hash_of(secret), key, change, limits=stored)
        return secret, key

    async def session(self, secret: str) -> Session | None:
        return await self._open(secret, schema.session, self._sessions, _session)

    async def key(self, secret: str) -> ApiKey | None:
        return await self._open(secret, schema.api_key, self._keys, _key)

    async def sessions(self, owner: UserId | None = None) -> list[Session]:
        query = select(schema.session).order_by(schema.session.c.created_ms)
        if owner is not None:
            query = query.where(schema.session.c.owner == owner)
        return await self._database.read_with(lambda connection: [_session(row) for row in connection.execute(query)])

    async def keys(self) -> list[ApiKey]:
        query = select(schema.api_key).order_by(schema.api_key.c.created_ms)
        return await self._database.read_with(lambda connection: [_key(row) for row in connection.execute(query)])

    async def revoke_session(self, id_or_secret: str) -> bool:
        return await self._revoke(schema.session, id_or_secret, Action.SESSION_REVOKE)

    async def revoke_key(self, id_or_secret: str) -> bool:
        return await self._revoke(schema.api_key, id_or_secret, Action.KEY_REVOKE)

    async def _open(
        self, secret: str, table: Table, remembered: Remembered[Holder], read_row: Callable[[Any], Holder]
    ) -> Holder | None:
        hashed = hash_of(secret)
        holder = remembered.get(hashed)
        if holder is None:
            revocations = self._revocations
            query = select(table).where(table.c.hash == hashed)
            row = await self._database.read_with(lambda connection: connection.execute(query).one_or_none())
            if row is None:
                return None
            holder = read_row(row)
            if revocations == self._revocations:
                remembered.put(hashed, holder)
        if holder.expires_ms is not None and holder.expires_ms <= self._now_ms():
            return None
        return holder

    async def _insert(
        self, table: Table, hashed: bytes, holder: Session | ApiKey, change: Change, **as_stored: str | None
    ) -> None:
        self._database.refuse_if_damaged()
        values = {field: getattr(holder, field) for field in holder.__struct_fields__} | as_stored
        note = self._audit.recording()

        def write(connection: Connection) -> None:
            connection.execute(insert(table).values(hash=hashed, **values))
            if note is not None:
                note(raw(connection), change)

        await self._database.write_with(write)

    async def _revoke(self, table: Table, id_or_secret: str, action: Action) -> bool:
        self._database.refuse_if_damaged()
        named = or_(table.c.id == id_or_secret, table.c.hash == hash_of(id_or_secret))
        note = self._audit.recording()

        def revoke(connection: Connection) -> int:
            self._signals.write(raw(connection), [AccessRevoked()])
            revoked = connection.execute(delete(table).where(named).returning(table.c.id)).scalars().all()
            if note is not None:
                for id in revoked:
                    note(raw(connection), Change(action, id))
            return len(revoked)

        count = await self._database.write_with(revoke)
        self.forget()
        self._signals.publish([AccessRevoked()])
        return count > 0

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _session(row: Any) -> Session:
    return Session(row.id, None if row.owner is None else UserId(row.owner), row.created_ms, row.expires_ms)


def _key(row: Any) -> ApiKey:
    limits = NO_LIMITS if row.limits is None else msgspec.json.decode(row.limits, type=KeyLimits)
    return ApiKey(row.id, Role(row.role), row.name, row.created_ms, row.expires_ms, limits)
