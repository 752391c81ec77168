"""Which logs this node delivers: each by an advisory lock on its session, and an epoch in a row.

The lock says who may settle now. The epoch says whether anybody else had the log in between: locks are not replicated,
and after a failover all of them are free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Final

import structlog
from msgspec import Struct

from tocsin.store.ports import StoreUnavailable
from tocsin.store.postgres import nodes
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.heartbeats import Heartbeats
from tocsin.store.postgres.places import LOGS, streams_of
from tocsin.store.postgres.session import NODE_LOCKS, Session

log = structlog.get_logger(__name__)

LOG_LOCKS: Final = 0x746F6C6F
"""The first key of the advisory locks of logs; the second is the log's number."""
ALIVE_S: Final = 3.0
"""A node whose last heartbeat is older takes no part in the division of logs."""

_TAKE: Final = f"""SELECT number FROM unnest($1::int[]) AS wanted(number)
    WHERE pg_try_advisory_lock({LOG_LOCKS}, number) LIMIT $2"""
# What is taken is read in a statement after this: what its holder before has committed is there.
_ENTER: Final = """WITH before AS (SELECT number, released FROM log WHERE number = ANY($1::smallint[]) FOR UPDATE)
    UPDATE log SET epoch = log.epoch + 1, node = $2, released = false FROM before WHERE log.number = before.number
    RETURNING log.number, log.epoch, before.released"""
_RELEASE: Final = "UPDATE log SET released = true WHERE number = ANY($1::smallint[]) AND node = $2"
_UNLOCK: Final = f"SELECT pg_advisory_unlock({LOG_LOCKS}, number) FROM unnest($1::int[]) AS held(number)"
_STILL: Final = "SELECT number, epoch FROM log WHERE number = ANY($1::smallint[]) AND node = $2"
# A node that has ended, or was cut off for so long that its session has ended, holds its lock no more.
_DELIVERING: Final = f"""SELECT count(*) FROM node WHERE delivers AND (number = $1
    OR beat_at > clock_timestamp() - interval '{ALIVE_S} s' AND EXISTS (
        SELECT 1 FROM pg_locks held WHERE held.locktype = 'advisory' AND held.classid = {NODE_LOCKS}
            AND held.objid::bigint = node.number AND held.objsubid = 2 AND held.granted
            AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())))"""
# The heartbeat is compared once more: another may have come since it was read.
_END_STALLED: Final = f"""SELECT node.name, pg_terminate_backend(held.pid) FROM pg_locks held JOIN node
    ON node.number = held.objid::bigint
    JOIN unnest($1::int[], $2::timestamptz[]) AS stalled(number, beat_at) USING (number, beat_at)
    WHERE held.locktype = 'advisory' AND held.classid = {NODE_LOCKS} AND held.objsubid = 2 AND held.granted
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


class Held(Struct):
    """A log that this node holds."""

    epoch: int
    leaving: bool = False
    """Nothing more is claimed from it: it is released when all of it is settled."""


class Ownership:
    def __init__(self, session: Session, random: Random, fresh_s: float, monotonic: Callable[[], float]) -> None:
        self._session = session
        self._random = random
        self._fresh_s = fresh_s
        self._heartbeats = Heartbeats(monotonic)
        self.node = 0
        """This node's number; 0 before it has one."""
        self.held: dict[int, Held] = {}

    def holds(self, stream: int, epoch: int) -> bool:
        held = self.held.get(stream >> 1)
        return held is not None and held.epoch == epoch

    def streams(self) -> list[int]:
        """Those of the logs that it holds."""
        return [stream for log in self.held for stream in streams_of(log)]

    async def fair_share(self) -> int:
        """How many logs this node should hold."""
        nodes: int = await self._session.run(lambda one: one.fetchval(_DELIVERING, self.node), transaction=False)
        return -(-LOGS // max(1, nodes))

    async def take(self, most: int) -> list[int]:
        """Take up to `most` logs that nobody holds, and return when what they hold may be sent.

        A node that had one and did not release it may send for as long as its last heartbeat counts: so long, and a
        margin, is waited from now, however the lock became free. When that heartbeat was is not asked: the database's
        clock may have been set since.
        """
        free = [log for log in range(LOGS) if log not in self.held]
        self._random.shuffle(free)
        session = self._session.number
        taken = [row[0] for row in await self._locked(free, most)]
        if not taken:
            return []
        try:
            rows = await self._session.run(lambda one: one.fetch(_ENTER, taken, self.node), transaction=False)
        except Exception:
            self._session.end("logs were locked, and could not be entered")
            raise
        if not all(row["released"] for row in rows):
            await self._wait()
        if session != self._session.number:
            raise StoreUnavailable("the session that has locked these logs is lost")
        self.held.update({row["number"]: Held(row["epoch"]) for row in rows})
        return taken

    async def _locked(self, free: Sequence[int], most: int) -> Sequence[Sequence[int]]:
        rows: Sequence[Sequence[int]] = await self._session.run(
            lambda one: one.fetch(_TAKE, free, most), transaction=False
        )
        return rows

    async def _wait(self) -> None:
        """Until nobody may send who has lost a log before."""
        await asyncio.sleep(1.5 * self._fresh_s)

    async def release(self, logs: Collection[int]) -> None:
        """Give these up, in order: whoever takes them need not wait."""
        numbers = sorted(logs)
        for number in numbers:
            self.held.pop(number, None)

        async def release(connection: Connection) -> None:
            await connection.execute(_RELEASE, numbers, self.node)

        if not numbers:
            return
        try:
            await self._session.run(release)
            await self._unlock(numbers)
        except Exception:
            # A lock that is left would keep every node from this log for as long as the session lives.
            self._session.end("logs could not be released")
            raise

    async def take_again(self, tries: int = 10, every_s: float = 0.1) -> list[int]:
        """After the session was lost: take what is still this node's by its epoch; returns the logs that are lost.

        What it holds in memory of the others stays valid: nobody else had them in between.
        """
        left, mine = set(self.held), dict[int, int]()
        for _ in range(tries):
            wanted = sorted(left - mine.keys())
            locked = [row[0] for row in await self._locked(wanted, len(wanted))] if wanted else []
            epochs = await self._epochs(left)
            left = {number for number in left if epochs.get(number) == self.held[number].epoch}
            mine |= {number: epochs[number] for number in locked if number in left}
            if foreign := [number for number in locked if number not in left]:
                await self._unlock(foreign)
            if left <= mine.keys():
                break
            await asyncio.sleep(every_s)  # the server may not have noticed yet that the session before is gone
        lost = [number for number in self.held if number not in mine]
        for number in lost:
            del self.held[number]
        return lost

    async def _epochs(self, logs: Collection[int]) -> dict[int, int]:
        """Of those logs whose row still names this node."""
        rows = await self._session.run(lambda one: one.fetch(_STILL, sorted(logs), self.node), transaction=False)
        return {row["number"]: row["epoch"] for row in rows}

    async def _unlock(self, logs: Sequence[int]) -> None:
        await self._session.run(lambda one: one.execute(_UNLOCK, logs), transaction=False)

    async def end_stalled_nodes(self) -> None:
        """End the sessions of nodes without heartbeats, so that their logs become free. To be called once a second."""
        beats = await self._session.run(lambda one: nodes.living(one, but=self.node), transaction=False)
        stalled = self._heartbeats.stalled(beats)
        if not stalled:
            return
        numbers, last = list(stalled), list(stalled.values())
        for row in await self._session.run(lambda one: one.fetch(_END_STALLED, numbers, last), transaction=False):
            log.warning("a node has sent no heartbeat: its session was ended", node=row[0])
