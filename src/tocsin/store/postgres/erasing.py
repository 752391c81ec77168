"""The statements that erase a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import UserId
from tocsin.store.postgres import search_feed
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.places import stream_of
from tocsin.store.records import AccessRevoked, QuarantineChanged, Signal, TokenDeleted

WINDOW: Final = 20_000
"""So many rows are looked at in one statement: there is no index by which to find a user's events."""

_DEVICES: Final = "DELETE FROM device WHERE owner = $1 RETURNING provider, token"
_REMOVALS: Final = "DELETE FROM removal WHERE owner = $1 RETURNING provider, token, account, quarantined"
_SESSIONS: Final = "DELETE FROM session WHERE owner = $1 RETURNING 1"
_PSEUDONYM: Final = "DELETE FROM pseudonym WHERE owner = $1 RETURNING 1"
_JOBS: Final = """DELETE FROM job WHERE position(convert_to($1, 'UTF8') IN arguments) > 0
    AND state IN ('done', 'stopped', 'failed')"""
_NOT_SHARED: Final = """SELECT token FROM unnest($1::text[], $2::text[]) AS own(provider, token)
    WHERE NOT EXISTS (SELECT 1 FROM device WHERE device.token = own.token AND device.provider = own.provider)
        AND NOT EXISTS (SELECT 1 FROM removal WHERE removal.token = own.token AND removal.provider = own.provider)
    ORDER BY token"""
_XID: Final = "SELECT pg_current_xact_id()::text::bigint"

# With the last row of the window, where the next one begins. A mark (no id) is removed where it tells of a device that
# is erased, and not where the user has registered since.
_WINDOW: Final = f"""SELECT xid, seq, day, id::text, own FROM (
        SELECT *, owner = $4 AND (id IS NOT NULL OR xid < $5) AS own, row_number() OVER (ORDER BY xid, seq) AS n,
            count(*) OVER () AS rows
        FROM (SELECT day, xid, seq, id, owner FROM event WHERE stream = $1 AND (xid, seq) > ($2, $3)
            ORDER BY xid, seq LIMIT {WINDOW}) AS following
    ) AS counted WHERE own OR n = rows ORDER BY xid, seq"""
_KEPT: Final = "SELECT stream, xid, seq, day, id::text FROM kept WHERE stream = ANY($1::smallint[]) AND owner = $2"

_PLACES: Final = "unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS t(stream, xid, seq)"
# The event first: whoever settles something of the user just now has locked it.
_DELETE_EVENTS: Final = """DELETE FROM event
    USING unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::int[]) AS t(stream, xid, seq, day)
    WHERE event.day = t.day AND event.stream = t.stream AND event.xid = t.xid AND event.seq = t.seq"""
_DELETE: Final = """DELETE FROM {table} USING {places}
    WHERE {table}.stream = t.stream AND {table}.xid = t.xid AND {table}.seq = t.seq"""
_DELETE_KEPT: Final = _DELETE.format(table="kept", places=_PLACES)
_DELETE_PARKED: Final = _DELETE.format(table="parked", places=_PLACES) + " RETURNING t.stream, t.xid, t.seq"
_DELETE_SETTLEMENTS: Final = (
    _DELETE.format(table="settlement", places=_PLACES) + " RETURNING t.stream, t.xid, t.seq, unit, attempts"
)
_DELETE_IDS: Final = "DELETE FROM event_id WHERE id = ANY($1::uuid[])"

_BLANK_SIGNALS: Final = "UPDATE signal SET body = $2 WHERE position($1 IN body) > 0"
_HARMLESS: Final = msgspec.json.encode(AccessRevoked()).decode()

_OF_OWNER: Final = ("device", "removal", "session", "pseudonym", "kept")
"""Where a user's row would be found by the owner's column."""
# Where a text may name the user: the table's key, and what is searched.
_TEXTS: Final = {
    "job": ("seq", "arguments"),
    "signal": ("id", "convert_to(body, 'UTF8')"),
    "audit": ("seq", "text"),
}
_IN_TEXTS: Final = f"""SELECT max(key), bool_or(EXISTS (
        SELECT 1 FROM unnest($2::bytea[]) AS own(needle) WHERE position(needle IN content) > 0))
    FROM (SELECT {{key}} AS key, {{content}} AS content FROM {{table}} WHERE {{key}} > $1 ORDER BY {{key}}
        LIMIT {WINDOW}) AS following"""
_IN_RECEIPTS: Final = f"""SELECT max(xid), (array_agg(seq ORDER BY xid DESC, seq DESC, unit DESC))[1],
        (array_agg(unit ORDER BY xid DESC, seq DESC, unit DESC))[1],
        bool_or(EXISTS (SELECT 1 FROM unnest($5::text[]) AS own(needle) WHERE position(needle IN attempts) > 0))
    FROM (SELECT xid, seq, unit, attempts FROM settlement WHERE stream = $1 AND (xid, seq, unit) > ($2, $3, $4)
        ORDER BY xid, seq, unit LIMIT {WINDOW}) AS following"""

_count_attempts = msgspec.json.Decoder(list[msgspec.Raw]).decode

Found = tuple[int, int, int, int, str | None]
"""A row of the user's: stream, transaction, number, day, and the event's id; None for a mark."""


class Removed(Struct, frozen=True):
    """What was removed beside events, and what others have to be told."""

    devices: int
    removals: int
    sessions: int
    pseudonym: bool
    tokens: tuple[DeviceToken, ...]
    """Those that nobody else has."""
    signals: list[Signal]
    xid: int
    """The number of the transaction that removed it."""


class Counted(Struct, frozen=True):
    """What was deleted of events."""

    events: int = 0
    waiting: int = 0
    receipts: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.events + other.events, self.waiting + other.waiting, self.receipts + other.receipts)


async def remove(connection: Connection, owner: UserId) -> Removed:
    """Everything but events, and but the pseudonym."""
    devices = await connection.fetch(_DEVICES, owner)
    removals = await connection.fetch(_REMOVALS, owner)
    sessions = await connection.fetch(_SESSIONS, owner)
    await connection.execute(_JOBS, owner)
    named = sorted({(row["provider"], row["token"]) for row in [*devices, *removals]})
    columns = [list(column) for column in zip(*named, strict=True)] if named else [[], []]
    tokens = tuple(DeviceToken(row["token"]) for row in await connection.fetch(_NOT_SHARED, *columns))
    signals: list[Signal] = [TokenDeleted(owner, provider, DeviceToken(token)) for provider, token in named]
    held = sorted({row["account"] for row in removals if row["quarantined"]})
    signals += [QuarantineChanged(account) for account in held]
    if sessions:
        signals.append(AccessRevoked())
    xid = await connection.fetchval(_XID)
    return Removed(len(devices), len(removals), len(sessions), False, tokens, signals, xid)


async def remove_pseudonym(connection: Connection, owner: UserId) -> bool:
    return bool(await connection.fetch(_PSEUDONYM, owner))


async def find_kept(connection: Connection, owner: UserId) -> list[Found]:
    """The user's events that have a row in `kept`."""
    return [tuple(row) for row in await connection.fetch(_KEPT, streams(owner), owner)]


async def find_events(
    connection: Connection, stream: int, after: tuple[int, int], owner: UserId, marks_before: int
) -> tuple[list[Found], tuple[int, int] | None]:
    """The user's events and marks in the next window of a stream, and where that ends; None at the end."""
    rows = await connection.fetch(_WINDOW, stream, *after, owner, marks_before)
    found = [(stream, xid, seq, day, id) for xid, seq, day, id, own in rows if own]
    return found, (rows[-1]["xid"], rows[-1]["seq"]) if rows else None


async def delete_events(connection: Connection, found: Sequence[Found]) -> Counted:
    """Delete these with all that was settled of them and waits. To be called in a transaction."""
    await search_feed.hold_off(connection)
    streams, xids, seqs, days, ids = (list(column) for column in zip(*found, strict=True))
    await connection.execute(_DELETE_EVENTS, streams, xids, seqs, days)
    await connection.execute(_DELETE_KEPT, streams, xids, seqs)
    waiting = {tuple(row) for row in await connection.fetch(_DELETE_PARKED, streams, xids, seqs)}
    settled, receipts = set[tuple[int, ...]](), 0
    for stream, xid, seq, unit, attempts in await connection.fetch(_DELETE_SETTLEMENTS, streams, xids, seqs):
        receipts += len(_count_attempts(attempts))
        if unit == 0:
            settled.add((stream, xid, seq))
    await search_feed.forget(connection, seqs)
    await connection.execute(_DELETE_IDS, [id for id in ids if id is not None])
    events = {(stream, xid, seq) for stream, xid, seq, _, id in found if id is not None}
    return Counted(len(events), len(waiting | (events - settled)), receipts)


def streams(owner: UserId) -> list[int]:
    """Where the user's events are."""
    return [stream_of(owner, urgent) for urgent in (False, True)]


async def blank_signals(connection: Connection, owner: UserId) -> None:
    """Not deleted: what was read of them is remembered by their ids."""
    await connection.execute(_BLANK_SIGNALS, owner, _HARMLESS)


SEARCHED: Final = (*_OF_OWNER, *_TEXTS, "event", "settlement")
"""The tables that are searched."""


async def has_rows(connection: Connection, owner: UserId) -> list[str]:
    """The tables that have a row of the user's."""
    return [
        table
        for table in _OF_OWNER
        if await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE owner = $1)", owner)
    ]


async def texts_name(
    connection: Connection, table: str, after: int, needles: Sequence[bytes]
) -> tuple[int | None, bool]:
    """Where the next window of this table ends (None: there is nothing more), and whether any of these is in it."""
    key, content = _TEXTS[table]
    last, found = await connection.fetchrow(_IN_TEXTS.format(table=table, key=key, content=content), after, needles)
    return last, bool(found)


async def receipts_name(
    connection: Connection, stream: int, after: tuple[int, int, int], tokens: Sequence[str]
) -> tuple[tuple[int, int, int] | None, bool]:
    """The same for the receipts of a stream."""
    xid, seq, unit, found = await connection.fetchrow(_IN_RECEIPTS, stream, *after, tokens)
    return None if xid is None else (xid, seq, unit), bool(found)


TEXTS: Final = tuple(_TEXTS)
