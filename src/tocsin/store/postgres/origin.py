"""Whether the tables are this server's own: their rows have the numbers of its transactions.

`pg_dump` copies the numbers, but not how far the server had come with them. Another server begins below, and an
event is read when every transaction below its own has ended: until it has come so far nothing is delivered, and nothing
fails.
"""

from __future__ import annotations

from typing import Final

from tocsin.store.postgres.connections import Connection

_NUMBERS: Final = """SELECT greatest((SELECT max(xid) FROM low_water), (SELECT max(xid) FROM seen_to),
        (SELECT max(newest.xid) FROM low_water AS low CROSS JOIN LATERAL (SELECT xid FROM event
            WHERE event.stream = low.stream ORDER BY xid DESC, seq DESC LIMIT 1) AS newest)),
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint"""
_EPOCH_BITS: Final = 32


async def wrong_with(connection: Connection) -> str | None:
    """Why nothing can be served from these tables, and what to do; None where all is well.

    Source: PostgreSQL, "pg_resetwal" (`--epoch`: any value will do as far as the database itself is concerned).
    """
    newest, following = await connection.fetchrow(_NUMBERS)
    if newest < following:
        return None
    return (
        f"its rows have numbers of transactions up to {newest}, and this server has only come to {following}: they are"
        " a dump of another server's, and nothing of them would be delivered; restore a base backup (`pg_basebackup`),"
        " which keeps the numbers, or stop this PostgreSQL server, and have it go on above them with"
        f" `pg_resetwal --epoch={(newest >> _EPOCH_BITS) + 1} -D <its data directory>`"
    )
