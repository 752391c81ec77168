"""Users on PostgreSQL: erases one while nodes run, and looks through the tables for what is left.

Nodes are told by signals, as of any deleted token, and by one more: what they have claimed of the user may be gone when
they settle it. When every node has read that, the events go. The signals name the user, so they are made blank then.

Deleted rows go from the files when PostgreSQL vacuums, and from its log when that is recycled: see docs/operating.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from msgspec.structs import replace

from tocsin.domain.events import UserId
from tocsin.store.audit_chain import Action, Change
from tocsin.store.ports import StoreError
from tocsin.store.postgres import erasing, nodes
from tocsin.store.postgres.audit import PostgresAudit
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.erasing import Counted, Found, Removed
from tocsin.store.postgres.ownership import Ownership
from tocsin.store.postgres.places import log_of
from tocsin.store.postgres.session import Session
from tocsin.store.postgres.signals import Erasing, PostgresSignals, Recount
from tocsin.store.postgres.wakes import Wakes
from tocsin.store.records import Erased

_STEP: Final = 500
_ROUNDS: Final = 3
"""A producer may go on sending events for the user: so often is looked for new ones."""
_ASK_AGAIN_S: Final = 0.05
_NOTICED_WITHIN_S: Final = 15.0
_HEARTBEATS: Final = 2
"""After the first a node reads the signals; before the second it has committed what it was settling until then."""


class PostgresUsers:
    """See `ports.Users`."""

    def __init__(
        self,
        database: Database,
        session: Session | None,
        ownership: Ownership,
        signals: PostgresSignals,
        wakes: Wakes,
        audit: PostgresAudit,
        forget: Callable[[UserId], None],
        recount: Callable[[Collection[int]], Awaitable[None]],
    ) -> None:
        self._database = database
        self._session = session
        self._ownership = ownership
        self._signals = signals
        self._wakes = wakes
        self._audit = audit
        self._forget = forget
        """Forgets what this process remembers of the user."""
        self._recount = recount
        """Counts anew what waits in logs of this process."""

    async def erase(self, owner: UserId) -> Erased:
        removed = await self._remove(owner)
        noticed = await self._noticed()
        counted, left = Counted(), list[str]()
        for _ in range(_ROUNDS):
            found = await self._erase_events(owner, removed.xid)
            if not found.events:
                break
            counted += found
        else:
            left.append("event")
        if not noticed:
            raise StoreError(
                "the user is erased, but a node has not taken notice of it yet, and what tells it names the user; run"
                " the command again when `tocsin status` says that all nodes are well"
            )
        await self._database.write(lambda one: erasing.blank_signals(one, owner))
        return Erased(
            devices=removed.devices,
            removals=removed.removals,
            sessions=removed.sessions,
            events=counted.events,
            waiting=counted.waiting,
            receipts=counted.receipts,
            pseudonym=removed.pseudonym,
            searched=tuple(f"table {table}" for table in erasing.SEARCHED),
            left=tuple(f"table {table}" for table in dict.fromkeys([*left, *await self._search(owner, removed)])),
        )

    async def _remove(self, owner: UserId) -> Removed:
        """Everything but events."""
        note = self._audit.recording()

        async def remove(connection: Connection) -> Removed:
            removed = await erasing.remove(connection, owner)
            await self._signals.write(connection, [Erasing(owner), *removed.signals])
            # Before the key of the pseudonym goes, by which the entry names the user.
            await note(connection, Change(Action.USER_ERASE, owner=owner))
            return replace(removed, pseudonym=await erasing.remove_pseudonym(connection, owner))

        removed = await self._database.write(remove)
        self._forget(owner)
        self._signals.publish(removed.signals)
        self._wakes.signalled()
        return removed

    async def _noticed(self) -> bool:
        """Returns when every process that serves knows of it, and what it settled before is committed; False where one
        does not within some seconds."""
        if self._session is not None and self._session.is_connected:
            await self._session.run(lambda one: one.fetchval("SELECT 1"), transaction=False)
        last: dict[int, datetime] | None = None
        missing: dict[int, int] = {}
        until = asyncio.get_running_loop().time() + _NOTICED_WITHIN_S
        while True:
            now = await self._database.read(lambda one: nodes.living(one, self._ownership.node))
            if last is None:
                missing = dict.fromkeys(now, _HEARTBEATS)
            else:
                # Whoever has left settles nothing any more.
                missing = {node: left - (now[node] != last[node]) for node, left in missing.items() if node in now}
            if not any(left > 0 for left in missing.values()):
                return True
            if asyncio.get_running_loop().time() >= until:
                return False
            last = now
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _erase_events(self, owner: UserId, marks_before: int) -> Counted:
        """All there are now, and the marks that are older than the removal."""
        counted = await self._delete(owner, await self._database.read(lambda one: erasing.find_kept(one, owner)))
        for stream in erasing.streams(owner):
            after: tuple[int, int] | None = (0, 0)
            while after is not None:
                find = partial(erasing.find_events, stream=stream, after=after, owner=owner, marks_before=marks_before)
                found, after = await self._database.read(find)
                counted += await self._delete(owner, found)
        return counted

    async def _delete(self, owner: UserId, found: Sequence[Found]) -> Counted:
        counted, logs = Counted(), (log_of(owner),)
        for first in range(0, len(found), _STEP):
            some = found[first : first + _STEP]

            async def delete(connection: Connection, some: Sequence[Found] = some) -> Counted:
                deleted = await erasing.delete_events(connection, some)
                if deleted.waiting:
                    await self._signals.write(connection, [Recount(logs)])
                return deleted

            deleted = await self._database.write(delete)
            if deleted.waiting:
                await self._recount(logs)
                self._wakes.signalled()
            counted += deleted
        return counted

    async def _search(self, owner: UserId, removed: Removed) -> list[str]:
        """The tables beside that of events in which anything of the user is found."""
        left = await self._database.read(lambda one: erasing.has_rows(one, owner))
        needles = [owner.encode(), owner.upper().encode(), *(token.encode() for token in removed.tokens)]
        left += [table for table in erasing.TEXTS if await self._is_named(table, needles)]
        for stream in erasing.streams(owner):
            if removed.tokens and await self._has_receipts(stream, removed.tokens):
                left.append("settlement")
        return left

    async def _is_named(self, table: str, needles: Sequence[bytes]) -> bool:
        after: int | None = 0
        while after is not None:
            look = partial(erasing.texts_name, table=table, after=after, needles=needles)
            after, found = await self._database.read(look)
            if found:
                return True
        return False

    async def _has_receipts(self, stream: int, tokens: Sequence[str]) -> bool:
        after: tuple[int, int, int] | None = (0, 0, 0)
        while after is not None:
            look = partial(erasing.receipts_name, stream=stream, after=after, tokens=tokens)
            after, found = await self._database.read(look)
            if found:
                return True
        return False
