"""Reads events with all that is known of them, without their contents, by their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.horizons import Horizons
from tocsin.store.records import Attempt, EventRecord, Parked, State


def at_place(table: str, of: str) -> str:
    """The condition that a row of `table` is about the event of the row `of`."""
    return f"{table}.stream = {of}.stream AND {table}.xid = {of}.xid AND {table}.seq = {of}.seq"


def parked_of(of: str) -> str:
    """An expression: what is parked of the event of the row `of`, as texts of JSON with commas between."""
    return f"""(SELECT string_agg(json_build_array(lane, due_ms, tries, targets::json)::text, ',' ORDER BY due_ms, id)
        FROM parked WHERE {at_place("parked", of)})"""


_PLACES: Final = "unnest($1::int[], $2::smallint[], $3::bigint[], $4::bigint[]) AS t(day, stream, xid, seq)"
# Of an event that is in its partition and in `kept`, what is kept is newer. One statement looks up each row by itself,
# so that no plan reads a whole partition. What is settled is settled on the event's day or later.
_EVENTS: Final = f"""SELECT t.seq, coalesce(kept.id, event.id)::text AS id,
        coalesce(kept.owner, event.owner)::text AS owner,
        coalesce(kept.message, event.message) AS message,
        coalesce(kept.accepted_ms, event.accepted_ms) AS accepted_ms,
        coalesce(kept.expires_ms, event.expires_ms) AS expires_ms, coalesce(kept.round, 0) AS round,
        coalesce(kept.dead, false) AS dead, kept.settled_ms, s.settlements, s.attempts, s.at_ms,
        {parked_of("t")} AS parked
    FROM {_PLACES}
    LEFT JOIN LATERAL (SELECT * FROM kept WHERE {at_place("kept", "t")} LIMIT 1) AS kept ON true
    LEFT JOIN LATERAL (SELECT * FROM event WHERE event.day = t.day AND {at_place("event", "t")} LIMIT 1) AS event
        ON true
    CROSS JOIN LATERAL (SELECT count(*) AS settlements, string_agg(attempts, ',' ORDER BY number) AS attempts,
        max(at_ms) AS at_ms FROM settlement WHERE settlement.day >= t.day AND {at_place("settlement", "t")}) AS s
    WHERE coalesce(kept.id, event.id) IS NOT NULL"""
# Whatever the statistics say, and however long ago a plan was made: a day's partition grows from nothing to millions of
# rows, and to plan a statement over a month of them takes longer than to run it.
_PLANS: Final = """SELECT set_config(name, value, true) FROM (VALUES ('plan_cache_mode', 'force_generic_plan'),
    ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_sort', 'off'), ('enable_hashjoin', 'off'),
    ('enable_mergejoin', 'off'), ('jit', 'off')) AS wanted(name, value)"""

_decode_attempts = msgspec.json.Decoder(list[list[Attempt]]).decode
_decode_parked = msgspec.json.Decoder(list[Parked]).decode


class Spot(NamedTuple):
    """Where an event is: its day, stream, transaction and number."""

    day: int
    stream: int
    xid: int
    seq: int


class Found(NamedTuple):
    """An event, and how many settlements it has."""

    record: EventRecord
    settlements: int


async def by_index(connection: Connection) -> None:
    """Until this transaction ends, look up rows by their indexes, with plans that are made once."""
    await connection.execute(_PLANS)


async def records(connection: Connection, spots: Sequence[Spot], horizons: Horizons) -> dict[int, Found]:
    """Those of these events that are there, by their numbers; all of them as they were at one instant."""
    if not spots:
        return {}
    rows = await connection.fetch(_EVENTS, *_columns(spots))
    found: dict[int, Found] = {}
    for row in rows:
        settled_ms, waiting = row["settled_ms"], waits(row["parked"])
        state = state_of(row["settlements"] > 0 or settled_ms is not None, bool(waiting), row["dead"])
        ended_ms = settled_ms if settled_ms is not None else row["at_ms"]
        if state in (State.DONE, State.DEAD) and horizons.is_forgotten(state, ended_ms):
            continue
        event = Event(
            EventId(row["id"]), UserId(row["owner"]), row["message"], row["accepted_ms"], row["expires_ms"], b""
        )
        record = EventRecord(event, state, flat(row["attempts"]), waiting, row["round"])
        found[row["seq"]] = Found(record, row["settlements"])
    return found


def state_of(settled: bool, waiting: bool, dead: bool) -> State:
    """Where an event stands that was settled or not, of which something is parked or not, and is a dead letter or
    not."""
    if not settled:
        return State.ACCEPTED
    if waiting:
        return State.DELIVERING
    return State.DEAD if dead else State.DONE


def waits(parked: str | None) -> list[Parked]:
    """What is parked of an event, from the text that `parked_of` selects."""
    return [] if parked is None else _decode_parked(f"[{parked}]")


def flat(attempts: str | None) -> list[Attempt]:
    """The attempts of several settlements, whose texts were put together with commas."""
    if attempts is None:
        return []
    return [attempt for of_one in _decode_attempts(f"[{attempts}]") for attempt in of_one]


def _columns(spots: Sequence[Spot]) -> list[list[int]]:
    return [list(column) for column in zip(*spots, strict=True)]
