"""Searches over very many attempts on PostgreSQL: how long the slowest takes, and what it costs to make their index."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
from tests.support.postgres_server import PostgresServer, remove

from benchmarks.report import Figures
from benchmarks.search import LANE, PAGES, QUERIES, START_MS, USERS
from benchmarks.sizes import Sizes
from tocsin.settings import Secrets, Settings, Store
from tocsin.store.opening import open_store
from tocsin.store.postgres import partitions
from tocsin.store.postgres.places import LOGS, day_of
from tocsin.store.records import Cursor

_ATTEMPTS_PER_EVENT: Final = 2
DAYS: Final = 30
"""Over so many days' partitions the events are spread."""
_KEY: Final = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SETTINGS: Final = {"fsync": "off", "synchronous_commit": "off", "shared_buffers": "1GB", "max_wal_size": "8GB"}
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

# The same events as on SQLite. The transactions' numbers are some that have ended, and grow with the days.
_EVENTS: Final = f"""INSERT INTO event(day, stream, xid, seq, id, owner, message, accepted_ms, expires_ms, size, body)
    SELECT $3::int + ((n - 1) * $5::int / $4::bigint)::int, 2 * (crc32(owner::bytea) % {LOGS})::int,
        3 + ((n - 1) * $5::int / $4::bigint), n,
        (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, owner::uuid, 'fax_new',
        {START_MS} + n, {START_MS} + n + 86400000, 190, decode(repeat('00', 218), 'hex')
    FROM (SELECT n, lpad(to_hex(n * 7919 % {USERS}), 8, '0') || '-0000-4000-8000-000000000000' AS owner
        FROM generate_series($1::bigint, $2::bigint) AS n) AS made"""
_SETTLEMENTS: Final = f"""INSERT INTO settlement(day, stream, xid, seq, unit, event_day, number, at_ms, attempts)
    SELECT day, stream, xid, seq, 0, day, seq, accepted_ms, format(
        '[[%s,"apns:%s","{LANE}","%s",%s,"%s","",null,0,1],'
        '[%s,"fcm:%s","fcm:main","delivered",200,"","0:1700000000000000%%0123456789abcdef",null,0,1]]',
        accepted_ms, lpad(to_hex(seq), 64, '0'), CASE WHEN seq % 1000 = 0 THEN 'refused' ELSE 'delivered' END,
        CASE WHEN seq % 1000 = 0 THEN 400 ELSE 200 END,
        CASE WHEN seq % 100000 = 0 THEN 'BadCollapseId' WHEN seq % 1000 = 0 THEN 'BadTopic' ELSE '' END,
        accepted_ms, lpad(to_hex(seq), 64, '0'))
    FROM event WHERE seq BETWEEN $1 AND $2 AND day BETWEEN $3 AND $4"""
_KEPT: Final = """INSERT INTO kept(stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size, body, dead,
        settled_ms)
    SELECT stream, xid, seq, day, id, owner, message, accepted_ms, expires_ms, size, body, true, accepted_ms
    FROM event WHERE seq BETWEEN $1 AND $2 AND day BETWEEN $3 AND $4 AND seq % 1000 = 0"""
# As the nodes have noted.
_SETTLED: Final = """UPDATE low_water SET day = newest.day, xid = newest.xid, seq = newest.seq
    FROM (SELECT stream, max(day) AS day, max(xid) AS xid, max(seq) AS seq FROM event GROUP BY stream) AS newest
    WHERE low_water.stream = newest.stream"""


def searches(sizes: Sizes, attempts: int | None = None) -> Figures:
    """Each query three pages long, on a store whose events were all settled before."""
    server = PostgresServer(SETTINGS).start()
    try:
        return asyncio.run(_searches(server, attempts or sizes.attempts))
    finally:
        remove(server)


async def _searches(server: PostgresServer, attempts: int) -> Figures:
    settings = Settings(store=Store(url=server.url()), secrets=Secrets(key=_KEY))
    figures, events = Figures(), attempts // _ATTEMPTS_PER_EVENT
    async with open_store(settings):
        pass
    await fill(server.url(), attempts)
    async with open_store(settings, server=True) as store:
        await store.start()
        before = time.process_time() + sum(_cpu_s(server))
        while await store.search.fill(1.0):
            pass
        spent = time.process_time() + sum(_cpu_s(server)) - before
        figures.add("postgres_search_index_us", spent / events * 1e6)
        for name, query in QUERIES.items():
            start: Cursor | None = None
            for _ in range(PAGES):
                began = time.perf_counter()
                page = await store.search.find(query, 50, start=start)
                took_ms = (time.perf_counter() - began) * 1000
                figures.add("postgres_search_ms", took_ms)
                figures.samples.setdefault(name, []).append(took_ms)
                start = page.next
                if start is None:
                    break
        figures.add("postgres_search_ms_max", max(figures.values["postgres_search_ms"]))
    return figures


async def fill(url: str, attempts: int, *, days: int = DAYS, ago: int = DAYS) -> None:
    """Events with so many attempts in all, into a new store: over so many days, of which the first was so long ago."""
    events = attempts // _ATTEMPTS_PER_EVENT
    connection: Any = await asyncpg.connect(url)
    first_day = day_of(int(time.time() * 1000)) - ago
    await partitions.make(connection, first_day, first_day + days)
    step = 100_000
    for first in range(1, events + 1, step):
        last = min(events, first + step - 1)
        between = [first_day + (n - 1) * days // events for n in (first, last)]
        await connection.execute(_EVENTS, first, last, first_day, events, days)
        await connection.execute(_SETTLEMENTS, first, last, *between)
        await connection.execute(_KEPT, first, last, *between)
    await connection.execute("SELECT setval('event_seq', $1), setval('settlement_number', $1)", events)
    await connection.execute(_SETTLED)
    await connection.execute("ANALYZE")
    await connection.close()


def _cpu_s(server: PostgresServer) -> Iterator[float]:
    """The CPU time of each of the server's processes that run."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
            own = Path(os.readlink(directory / "cwd")) == server.data
        except OSError:
            continue
        if own:
            yield (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


if __name__ == "__main__":
    import sys

    from benchmarks import report
    from benchmarks.sizes import FULL

    measured = searches(FULL, int(sys.argv[1]))
    print(report.table(measured))
    for what, took in measured.samples.items():
        print(f"{what:24}", " ".join(f"{one:8.1f}" for one in took), "ms")
