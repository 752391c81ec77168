"""Users on SQLite: erases one, also while a server runs, and looks through the files for what is left.

The server is told by the same signals as of any deleted token. They name the user, so they are made blank as soon as
the server has read them. What it has in memory of the user's events comes to nothing: they have no device any more.
"""

from __future__ import annotations

import asyncio
import mmap
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from tocsin.domain.events import UserId
from tocsin.store.audit_chain import Action, Change
from tocsin.store.ports import StoreError
from tocsin.store.records import Erased
from tocsin.store.sqlite import erasing, locks, search_feed, signals
from tocsin.store.sqlite.audit import SqliteAudit
from tocsin.store.sqlite.database import Database
from tocsin.store.sqlite.overview import Overview, look
from tocsin.store.sqlite.retiring import empty_log
from tocsin.store.sqlite.signals import SqliteSignals
from tocsin.store.sqlite.spilling import spills_beside

_STEP: Final = 500
_ROUNDS: Final = 3
"""A producer may go on sending events for the user: so often is looked for new ones."""
_ASK_AGAIN_S: Final = 0.1
_MOST_WAITS: Final = 150
_SUFFIXES: Final = ("", "-wal")


class SqliteUsers:
    """See `ports.Users`."""

    def __init__(
        self,
        path: Path,
        database: Database,
        own_signals: SqliteSignals,
        audit: SqliteAudit,
        refresh: Callable[[Overview], Awaitable[None]],
        forget: Callable[[], None],
        *,
        wall_clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._path = path
        self._database = database
        self._signals = own_signals
        self._audit = audit
        self._refresh = refresh
        self._forget = forget
        """Forgets what is in memory of devices and sessions."""
        self._wall_clock = wall_clock
        self._random = random

    async def erase(self, owner: UserId) -> Erased:
        note = self._audit.recording()

        def remove(driver: sqlite3.Connection) -> erasing.Removed:
            if note is not None:
                # Before the key of the pseudonym goes, by which the entry names the user.
                note(driver, Change(Action.USER_ERASE, owner=owner))
            removed = erasing.remove(driver, owner)
            self._signals.write(driver, removed.signals)
            return removed

        removed = await self._database.write(remove)
        self._forget()
        self._signals.publish(removed.signals)
        events = waiting = receipts = 0
        for _ in range(_ROUNDS):
            found = await self._erase_events(owner)
            if not found[0]:
                break
            events, waiting, receipts = events + found[0], waiting + found[1], receipts + found[2]
        await self._blank_signals(owner)
        needles = [owner.encode(), owner.upper().encode(), *(token.encode() for token in removed.tokens)]
        return Erased(
            devices=removed.devices,
            removals=removed.removals,
            sessions=removed.sessions,
            events=events,
            waiting=waiting,
            receipts=receipts,
            pseudonym=removed.pseudonym,
            searched=tuple(str(file) for file in self._files()),
            left=await self._search(needles),
        )

    async def _erase_events(self, owner: UserId) -> tuple[int, int, int]:
        """All there are now: how many, how many of them waited, and how many receipts they had."""
        after: int | None = 0
        events = waiting = receipts = 0
        while after is not None:
            find = partial(erasing.find_events, owner=owner, after=after)
            seqs, after = await self._database.read(find)
            for first in range(0, len(seqs), _STEP):
                found = await self._delete_events(seqs[first : first + _STEP])
                events, waiting, receipts = events + found[0], waiting + found[1], receipts + found[2]
        return events, waiting, receipts

    async def _delete_events(self, seqs: Sequence[int]) -> tuple[int, int, int]:
        now_ms, new_id = int(self._wall_clock() * 1000), f"erased-{self._random.getrandbits(64):016x}"

        def delete(driver: sqlite3.Connection) -> tuple[tuple[int, int, int], Overview]:
            search_feed.note(driver, seqs, now_ms)
            return erasing.delete_events(driver, seqs, now_ms, new_id), look(driver)

        found, overview = await self._database.write(delete)
        await self._refresh(overview)
        return found

    async def _blank_signals(self, owner: UserId) -> None:
        """Raises StoreError: a server runs, and has not read them for a long time."""
        newest = await self._database.read(lambda driver: erasing.newest_signal(driver, owner))
        if not newest:
            return
        for _ in range(_MOST_WAITS):
            if not locks.is_served(self._path) or newest <= await self._database.read(signals.read_by_server):
                break
            await asyncio.sleep(_ASK_AGAIN_S)
        else:
            raise StoreError(
                f"{self._path}: the user is erased, but the server has not taken notice of it yet, and what tells it"
                " names the user; run the command again when the server answers"
            )
        await self._database.write(lambda driver: erasing.blank_signals(driver, owner, newest))

    async def _search(self, needles: Sequence[bytes]) -> tuple[str, ...]:
        """The files in which anything of the user is found."""
        await self._empty_log()
        found = await asyncio.to_thread(self._found, needles)
        if found:
            # A page that was divided may have kept what lay on it: the file is written anew.
            await self._database.write_alone(self._write_anew)
            await self._empty_log()
            found = await asyncio.to_thread(self._found, needles)
        return found

    def _write_anew(self, driver: sqlite3.Connection) -> None:
        with spills_beside(driver, self._path):
            driver.execute("VACUUM")

    async def _empty_log(self) -> None:
        """Raises StoreError: somebody reads it for a long time."""
        for _ in range(_MOST_WAITS):
            if await self._database.write_alone(empty_log):
                return
            await asyncio.sleep(_ASK_AGAIN_S)
        raise StoreError(
            f"{self._path}: the user is erased, but another process (a backup?) reads the store's log, which still has"
            " the user's data; run the command again when that is done"
        )

    def _files(self) -> list[Path]:
        files = (self._path.with_name(self._path.name + suffix) for suffix in _SUFFIXES)
        return [file for file in files if file.exists()]

    def _found(self, needles: Sequence[bytes]) -> tuple[str, ...]:
        return tuple(str(file) for file in self._files() if _has_any(file, needles))


def _has_any(file: Path, needles: Sequence[bytes]) -> bool:
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(needle) >= 0 for needle in needles)
