"""The standbys that follow the database: how far each is behind (PostgreSQL, `pg_stat_replication`).

Where the role may not see other sessions (it is a member of neither `pg_read_all_stats` nor `pg_monitor`), none is
known.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from tocsin.store.postgres.connections import Connection
from tocsin.store.records import Replica

_MOST: Final = 16
"""Standbys that are told of: each is a label of metrics."""
# What a standby says of its delay stands still while it says nothing; the time of its last word does not.
_STANDBYS: Final = f"""SELECT name, max(bytes)::bigint,
        max(CASE WHEN bytes <= 0 THEN 0 ELSE greatest(delay, silent, 0) END)::float8
    FROM (SELECT application_name AS name, extract(epoch FROM replay_lag) AS delay,
            extract(epoch FROM clock_timestamp() - reply_time) AS silent,
            pg_wal_lsn_diff(CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() END, replay_lsn) AS bytes
        FROM pg_stat_replication WHERE state IN ('streaming', 'catchup')) AS standby
    WHERE bytes IS NOT NULL AND name <> '' GROUP BY name ORDER BY name LIMIT {_MOST}"""


async def replicas(connection: Connection) -> list[Replica]:
    """Those that stream from this server now. Of several with one name the one that is furthest behind counts."""
    try:
        rows = await connection.fetch(_STANDBYS)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFunctionError):
        # Some hosted databases have a replication of their own, and refuse these functions.
        return []
    return [Replica(name, int(size), lag_s) for name, size, lag_s in rows]
