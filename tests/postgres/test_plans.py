"""Statements look at what they are about: not at all that is on record, and not at each pair of what they are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.contract.support import keep
from tests.postgres.nodes import Nodes

from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.housekeeping import _OLD_KEPT, _OLD_KEYS, _OLD_SIGNALS
from tocsin.store.postgres.queue import _NEWEST_ACCEPTED, _OLDEST
from tocsin.store.postgres.registry import _LEARN
from tocsin.store.postgres.signals import _READ

_DEVICES = 20_000
_LEARNED = 2000
_SETTLED = 20_000


async def looked_at(connection: Connection, statement: str, *values: tuple[str, Sequence[object] | int]) -> int:
    """How many rows the busiest part of the plan goes through, by the plan that is made once for all values."""
    literals = [
        f"'{{{','.join('NULL' if one is None else str(one) for one in value)}}}'::{kind}"
        if isinstance(value, Sequence)
        else f"{value}::{kind}"
        for kind, value in values
    ]
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE looked AS {statement}")
    given = f"({', '.join(literals)})" if literals else ""
    explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE looked{given}")
    await connection.execute("DEALLOCATE looked")
    return busiest(json.loads(explained)[0]["Plan"])


def busiest(plan: dict[str, Any]) -> int:
    removed = sum(plan.get(f"Rows Removed by {one}", 0) for one in ("Filter", "Join Filter", "Index Recheck"))
    own = round((plan["Actual Rows"] + removed) * plan["Actual Loops"])
    return max([own, *map(busiest, plan.get("Plans", ()))])


async def test_what_was_learned_of_a_device_is_compared_with_that_device_alone(nodes: Nodes) -> None:
    connection = await nodes.connection()
    await connection.execute(
        "INSERT INTO device(owner, provider, token, address, registered_us, generation)"
        " SELECT gen_random_uuid(), 'apns', md5(n::text), '', 0, 1 FROM generate_series(1, $1::int) AS t(n)",
        _DEVICES,
    )
    await connection.execute("ANALYZE device")
    rows = await connection.fetch("SELECT owner::text, token FROM device ORDER BY token LIMIT $1", _LEARNED)
    most = await looked_at(
        connection,
        _LEARN,
        ("uuid[]", [owner for owner, _ in rows]),
        ("text[]", ["apns"] * _LEARNED),
        ("text[]", [token for _, token in rows]),
        ("bigint[]", [1] * _LEARNED),
        ("text[]", [None] * _LEARNED),
        ("bigint[]", [1] * _LEARNED),
        ("text[]", [None] * _LEARNED),
    )
    assert await connection.fetchval("SELECT count(*) FROM device WHERE last_success_ms = 1") == _LEARNED
    assert most <= 2 * _LEARNED


async def test_the_oldest_that_waits_is_found_without_looking_at_what_is_settled(nodes: Nodes) -> None:
    node = await nodes.open()
    connection = await nodes.connection()
    day = node.now_ms() // 86_400_000
    await connection.execute(
        "INSERT INTO event(day, stream, xid, seq, id, owner, message, accepted_ms, expires_ms, size, body)"
        " SELECT $1, n % 128, 10, n, gen_random_uuid(), gen_random_uuid(), 'fax_new', n, n, 0, ''"
        " FROM generate_series(1, $2::int) AS t(n)",
        day,
        _SETTLED,
    )
    await connection.execute(
        "INSERT INTO settlement(day, stream, xid, seq, unit, event_day, at_ms, attempts)"
        " SELECT day, stream, xid, seq, 0, day, 0, '[]' FROM event WHERE seq < $1",
        _SETTLED,
    )
    streams = list(range(128))
    places = ("smallint[]", streams), ("int[]", [day] * 128), ("bigint[]", [10] * 128)
    most = await looked_at(connection, _OLDEST, *places, ("bigint[]", [_SETTLED - 129] * 128))
    assert most <= 3 * 128


async def test_signals_are_looked_for_without_looking_at_those_that_were_read(nodes: Nodes) -> None:
    await nodes.open()
    connection = await nodes.connection()
    await connection.execute(
        "INSERT INTO signal(origin, body) SELECT 1, '{}' FROM generate_series(1, $1::int)", _SETTLED
    )
    await connection.execute("ANALYZE signal")
    last = await connection.fetchval("SELECT max(id) FROM signal")
    # One of long before is still awaited.
    gaps = ("bigint[]", [last - 10_000, last - 1]), ("bigint[]", [last - 9998, 2**62])
    assert await looked_at(connection, _READ, *gaps, ("int", 7), ("int", 0)) <= 4


async def test_a_takeover_does_not_go_through_the_registrations_of_a_log_without_events(nodes: Nodes) -> None:
    node = await nodes.open()
    connection = await nodes.connection()
    # Two streams: one with marks alone, one with an event among its newest rows.
    await connection.execute(
        "INSERT INTO event(day, stream, xid, owner, message, accepted_ms, expires_ms, size, body)"
        " SELECT $1, n % 2, 10, gen_random_uuid(), '', 0, 0, 0, '' FROM generate_series(1, $2::int) AS t(n)",
        node.now_ms() // 86_400_000,
        _SETTLED,
    )
    await connection.execute(
        "INSERT INTO event(day, stream, xid, id, owner, message, accepted_ms, expires_ms, size, body)"
        " VALUES ($1, 1, 10, gen_random_uuid(), gen_random_uuid(), 'fax_new', 7, 7, 0, ''),"
        " ($1, 1, 10, NULL, gen_random_uuid(), '', 0, 0, 0, '')",
        node.now_ms() // 86_400_000,
    )
    await connection.execute("ANALYZE event")
    assert await connection.fetchval(_NEWEST_ACCEPTED, [0, 1]) == 7
    assert await looked_at(connection, _NEWEST_ACCEPTED, ("smallint[]", [0, 1])) <= 200


async def test_old_signals_are_looked_for_without_looking_at_those_of_the_last_day(nodes: Nodes) -> None:
    node = await nodes.open()
    connection = await nodes.connection()
    for count, age in (1200, "2 days"), (_SETTLED, "1 hour"):
        await connection.execute(
            "INSERT INTO signal(origin, body, at) SELECT 1, '{}', now() - $2::text::interval"
            " FROM generate_series(1, $1::int)",
            count,
            age,
        )
    await connection.execute("ANALYZE signal")
    while await node.prune(keep(7 * 86_400, 7 * 86_400)):
        pass
    assert await connection.fetchval("SELECT count(*) FROM signal WHERE at < now() - interval '1 day'") == 0
    assert await connection.fetchval("SELECT count(*) FROM signal") >= _SETTLED
    assert await looked_at(connection, _OLD_SIGNALS) <= 1000


async def test_old_events_and_keys_are_looked_for_without_looking_at_dead_letters(nodes: Nodes) -> None:
    """Dead letters are kept for longer than other events, and there may be very many."""
    await nodes.open()
    connection = await nodes.connection()
    await connection.execute(
        "INSERT INTO kept(stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size, content_key, body,"
        " dead, settled_ms) SELECT n % 128, 10, n, 1, gen_random_uuid(), gen_random_uuid(), 'fax_new', 0, 0, 0,"
        " n % 1000, '', n > 10, n FROM generate_series(1, $1::int) AS t(n)",
        _SETTLED,
    )
    await connection.execute(
        "INSERT INTO content_key(id, from_ms, until_ms, key_id, record) SELECT n, n, n, '', ''"
        " FROM generate_series(1, 1100) AS t(n)"
    )
    await connection.execute("ANALYZE kept, content_key")
    assert await looked_at(connection, _OLD_KEPT, ("bigint", 10**6), ("int", 2)) <= 100
    assert await connection.fetchval("SELECT count(*) FROM kept") == _SETTLED - 10
    assert await looked_at(connection, _OLD_KEYS, ("bigint", 1060)) <= 3000
    assert await connection.fetchval("SELECT count(*) FROM content_key") == 1100 - 60
