"""Searches over very many attempts: how long the slowest takes, and what it costs to make their index."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.report import Figures
from benchmarks.sizes import Sizes
from tocsin.domain.events import EventId, UserId
from tocsin.settings import Settings, Store
from tocsin.store.opening import open_store
from tocsin.store.records import Cursor, Query

_ATTEMPTS_PER_EVENT: Final = 2
USERS: Final = 1_000_000
LANE: Final = "apns:production:39JSDKGJ38.de.cospace.app"
PAGES: Final = 3
START_MS: Final = 1_700_000_000_000

# One event in a thousand was refused, one in a hundred thousand for a reason of its own.
_ROWS: Final = f"""WITH RECURSIVE number(n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2)
INSERT INTO event(seq, id, owner, message, urgent, accepted_ms, expires_ms, state, size, settled_ms, attempts)
SELECT n, printf('%08x-0000-7000-8000-%012x', n, n), printf('%08x-0000-4000-8000-000000000000', n * 7919 % {USERS}),
    'fax_new', 0, ?3 + n, ?3 + n + 86400000, 2 + (n % 1000 = 0), 190, ?3 + n,
    printf('[%d,"apns:%064x","{LANE}","%s",%d,"%s","",null,0,1],'
           || '[%d,"fcm:%064x","fcm:main","delivered",200,"","0:1700000000000000%%0123456789abcdef",null,0,1]',
        ?3 + n, n, iif(n % 1000, 'delivered', 'refused'), iif(n % 1000, 200, 400),
        iif(n % 1000, '', iif(n % 100000, 'BadTopic', 'BadCollapseId')), ?3 + n, n)
FROM number"""

QUERIES: Final = {
    "everything": Query(),
    "a user": Query(owners=frozenset({UserId("00001234-0000-4000-8000-000000000000")})),
    "an unknown user": Query(owners=frozenset({UserId("ffffffff-0000-4000-8000-000000000000")})),
    "an outcome": Query(outcomes=frozenset({"refused"})),
    "a rare reason": Query(reason="BadCollapseId"),
    "no such reason": Query(reason="Unheard"),
    "an application": Query(lanes=frozenset({LANE})),
    "a token alone": Query(devices=frozenset({"apns:unknown"})),
    "a time": Query(from_ms=START_MS + 1000, until_ms=START_MS + 2000),
    "an outcome in a time": Query(outcomes=frozenset({"expired"}), until_ms=START_MS + 100_000),
}


def event_id(number: int) -> EventId:
    return EventId(f"{number:08x}-0000-7000-8000-{number:012x}")


def owner_of(number: int) -> UserId:
    """Whose the event of this number is."""
    return UserId(f"{number * 7919 % USERS:08x}-0000-4000-8000-000000000000")


def fill(path: Path, attempts: int) -> None:
    """Events with so many attempts in all, into a new store in this file."""
    events = attempts // _ATTEMPTS_PER_EVENT
    with sqlite3.connect(path) as driver:
        driver.execute("PRAGMA synchronous=OFF")
        for first in range(1, events + 1, 100_000):
            driver.execute(_ROWS, (first, min(events, first + 99_999), START_MS))
            driver.commit()


def searches(sizes: Sizes, attempts: int | None = None) -> Figures:
    """Each query three pages long, on a store whose events were all settled before."""
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as directory:
        return asyncio.run(_searches(Path(directory) / "tocsin.db", attempts or sizes.attempts))


async def _searches(path: Path, attempts: int) -> Figures:
    settings, figures, events = Settings(store=Store(path=path)), Figures(), attempts // _ATTEMPTS_PER_EVENT
    async with open_store(settings):
        pass
    fill(path, attempts)
    async with open_store(settings, server=True) as store:
        await store.start()
        before = time.process_time()
        while await store.search.fill(1.0):
            pass
        figures.add("search_index_us", (time.process_time() - before) / events * 1e6)
        for query in QUERIES.values():
            start: Cursor | None = None
            for _ in range(PAGES):
                began = time.perf_counter()
                page = await store.search.find(query, 50, start=start)
                figures.add("search_ms", (time.perf_counter() - began) * 1000)
                start = page.next
                if start is None:
                    break
        figures.add("search_ms_max", max(figures.values["search_ms"]))
    return figures


if __name__ == "__main__":
    import sys

    from benchmarks import report
    from benchmarks.sizes import FULL

    print(report.table(searches(FULL, int(sys.argv[1]))))
