"""Signals on PostgreSQL: rows that every process reads, told to the process that made the change at once.

Ids are given before commits end: one that commits late has a lower id than what was read already. So the gaps between
the ids of the last minute are read again and again, and no transaction of tocsin's lasts that long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.ports import StoreUnavailable
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.gaps import Gaps
from tocsin.store.records import Signal, TokenDeleted, TokenRegistered, TokenRestored

_REMEMBERED_S: Final = 60.0
_INSERT: Final = (
    "INSERT INTO signal(origin, body) SELECT $1, body FROM unnest($2::text[]) WITH ORDINALITY AS t(body, n)"
)
# First of all the node's last heartbeat, in the same snapshot. A process's own signals are read as well, without their
# text: they would be gaps.
_READ: Final = """SELECT 0 AS id, extract(epoch FROM beat_at)::float8::text AS body FROM node WHERE number = $4
    UNION ALL SELECT one.id, one.body FROM unnest($1::bigint[], $2::bigint[]) AS gap(above, below) CROSS JOIN LATERAL (
        SELECT id, CASE WHEN origin <> $3 THEN body END AS body FROM signal WHERE id > above AND id < below ORDER BY id
    ) AS one ORDER BY id"""
_OLD: Final = """SELECT coalesce((SELECT id FROM signal WHERE at <= clock_timestamp() - interval '60 s'
    ORDER BY id DESC LIMIT 1), 0)"""
_SINCE: Final = "SELECT id FROM signal WHERE id > $1 ORDER BY id"
_REGISTERED: Final = """SELECT owner::text, provider, token FROM device
    JOIN unnest($1::uuid[], $2::text[], $3::text[]) AS named(owner, provider, token) USING (owner, provider, token)"""

Registration = tuple[str, str, str]
"""Owner, provider and token."""


class ReadElsewhere(StoreUnavailable):
    """The database that is read is not the one that acknowledges heartbeats: an old primary, or another database."""


class Revived(Struct, frozen=True, tag=True):
    """Something was parked in these logs by a process that does not hold them: dead letters, replayed."""

    logs: dict[int, tuple[int, int]]
    """By log: how many events, and their size."""


class Erasing(Struct, frozen=True, tag=True):
    """This user is being erased: what is out of it may be gone when it is settled (`settle_sql.gone`)."""

    owner: UserId


class Recount(Struct, frozen=True, tag=True):
    """Events of these logs that waited are gone without having been settled: who holds the logs counts anew."""

    logs: tuple[int, ...]


Within = Revived | Erasing | Recount
"""What the stores tell each other, and nobody else."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Signal | Within).decode


_OF_TOKENS: Final = (TokenDeleted, TokenRegistered, TokenRestored)


def _registration(signal: TokenDeleted | TokenRegistered | TokenRestored) -> Registration:
    return signal.owner, signal.provider, signal.token


async def _registered(connection: Connection, columns: Sequence[Sequence[str]]) -> Sequence[Any]:
    rows: Sequence[Any] = await connection.fetch(_REGISTERED, *columns)
    return rows


def encoded(signals: Iterable[Signal | Within]) -> list[str]:
    """As they are written."""
    return [_encode(signal).decode() for signal in signals]


class PostgresSignals:
    """See `ports.Signals`."""

    def __init__(self, database: Database, origin: int, monotonic: Callable[[], float]) -> None:
        self._database = database
        self.origin = origin
        self._monotonic = monotonic
        self._receivers: list[Callable[[Signal], None]] = []
        self._elsewhere: list[Callable[[Signal], None]] = []
        self._within: Callable[[Within], None] = lambda told: None
        self._gaps = Gaps(0)
        self._read: deque[tuple[float, int]] = deque()
        """When (monotonic) up to which id was read."""
        self._untold: list[Signal] = []
        """What was read and is to be told of, when the table could be read as well."""
        self._watching: dict[int, set[Registration]] = {}
        """Of which registrations something was told while others were looked up: a set for each look, by its identity,
        since two that are empty are equal."""
        self.noticed = 0
        """How often something was noticed of other processes."""

    def subscribe(self, receive: Callable[[Signal], None]) -> None:
        self._receivers.append(receive)

    def when_elsewhere(self, receive: Callable[[Signal], None]) -> None:
        """As `subscribe`, for what is remembered within the store: of other processes' changes only, and before anybody
        else is told."""
        self._elsewhere.append(receive)

    def when_within(self, receive: Callable[[Within], None]) -> None:
        """Have `receive` called with what other processes' stores tell this one. It must not block."""
        self._within = receive

    def publish(self, signals: Iterable[Signal]) -> None:
        """Tell those within this process. Called when the change is durable, before its caller is answered."""
        for signal in signals:
            if self._watching and isinstance(signal, _OF_TOKENS):
                for meanwhile in self._watching.values():
                    meanwhile.add(_registration(signal))
            for receive in self._receivers:
                receive(signal)

    async def write(self, connection: Connection, signals: Sequence[Signal | Within]) -> None:
        """Tell every other process, in the transaction of the change."""
        if signals:
            await connection.execute(_INSERT, self.origin, encoded(signals))

    async def start(self) -> None:
        """What was signalled before is known from the tables themselves; what commits from now on is heard."""

        async def look(connection: Connection) -> tuple[int, list[int]]:
            floor = await connection.fetchval(_OLD)
            return floor, [row[0] for row in await connection.fetch(_SINCE, floor)]

        floor, recent = await self._database.read(look)
        self._gaps = Gaps(floor)
        for id in recent:
            self._gaps.take(id)
        self._read = deque([(self._monotonic(), max(recent, default=floor))])

    async def notice(self, node: int = 0, beat: float = 0.0) -> None:
        """Read what other processes have signalled, and tell of it. With `beat`, the database's time of a heartbeat of
        this node, all that was signalled before it.

        Raises:
            ReadElsewhere: what was read does not have that heartbeat.
            StoreUnavailable: it cannot be read.

        Of each registration that they are about, the last one says how it is now: it is compared with the table, and
        again where this process has told of a change of its own meanwhile.
        """
        rows = await self._database.read(lambda one: one.fetch(_READ, *self._gaps.bounds(), self.origin, node))
        last_beat = float(rows.pop(0)["body"]) if rows and rows[0]["id"] == 0 else 0.0
        if last_beat < beat:
            raise ReadElsewhere("store.url leads to another server than the session with the database")
        if not rows and not self._untold:
            return self._forget()
        signals: list[Signal] = []
        for id, body in rows:
            if not self._gaps.take(id) or body is None:
                continue  # read by somebody else meanwhile, or this process's own
            try:
                signal = _decode(body)
            except msgspec.MsgspecError:
                continue  # a newer version's kind
            if isinstance(signal, Within):
                self._within(signal)
            else:
                signals.append(signal)
        if rows:
            self._read.append((self._monotonic(), rows[-1][0]))
        for signal in signals:
            for receive in self._elsewhere:
                receive(signal)
        # They are not read again: where the table cannot be read now, they are told of the next time.
        self._untold += signals
        untold = list(self._untold)
        corrections = await self._corrections(untold)
        del self._untold[: len(untold)]
        self.noticed += 1
        self.publish([*untold, *corrections])
        self._forget()

    async def correct(self, signals: Sequence[Signal]) -> None:
        """After `signals` were told: where they are not true any more, tell what is."""
        self.publish(await self._corrections(signals))

    async def _corrections(self, signals: Iterable[Signal]) -> list[Signal]:
        """What is to follow `signals` for those registrations that are not any more as their last signal says.

        What is told of a registration while the table is read may be newer than what was read: it is read again.
        """
        corrections: list[Signal] = []
        deleted: dict[Registration, bool | None] = {
            _registration(signal): isinstance(signal, TokenDeleted)
            for signal in signals
            if isinstance(signal, _OF_TOKENS)
        }
        while deleted:
            columns = [list(column) for column in zip(*deleted, strict=True)]
            meanwhile: set[Registration] = set()
            self._watching[id(meanwhile)] = meanwhile
            try:
                rows = await self._database.read(partial(_registered, columns=columns))
            finally:
                del self._watching[id(meanwhile)]
            registered = {tuple(row) for row in rows}
            for registration in [one for one in deleted if one not in meanwhile]:
                is_registered = registration in registered
                if deleted[registration] in (None, is_registered):
                    owner, provider, token = UserId(registration[0]), registration[1], DeviceToken(registration[2])
                    kind = TokenRegistered if is_registered else TokenDeleted
                    corrections.append(kind(owner, provider, token))
            deleted = dict.fromkeys(deleted.keys() & meanwhile)
        return corrections

    def _forget(self) -> None:
        """Await nothing more of what has an id below those that were read long enough ago."""
        before = self._monotonic() - _REMEMBERED_S
        while self._read and self._read[0][0] < before:
            self._gaps.close(self._read.popleft()[1])
