"""What a change of devices writes beside the devices: marks in the logs of their owners, and signals.

Whoever reads past a mark looks up the owner's devices anew: an event that follows a registration finds the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tocsin.domain.events import UserId
from tocsin.store.postgres.connections import Connection
from tocsin.store.postgres.places import day_of, stream_of

_INSERT: Final = """WITH marks AS (
        INSERT INTO event(day, stream, xid, owner, message, accepted_ms, expires_ms, size, body)
        SELECT $1, stream, pg_current_xact_id()::text::bigint, owner, '', 0, 0, 0, ''::bytea
        FROM unnest($2::smallint[], $3::uuid[]) AS t(stream, owner)
    )
    INSERT INTO signal(origin, body) SELECT $4, body FROM unnest($5::text[]) WITH ORDINALITY AS t(body, n) ORDER BY n"""


async def write(
    connection: Connection, owners: Iterable[UserId], now_ms: int, origin: int, signals: Sequence[str]
) -> None:
    """A mark in both streams of each owner, and signals of the process `origin`, in the transaction of the change."""
    found = [(stream_of(owner, urgent), owner) for owner in dict.fromkeys(owners) for urgent in (False, True)]
    columns = [list(column) for column in zip(*found, strict=True)] if found else [[], []]
    await connection.execute(_INSERT, day_of(now_ms), *columns, origin, signals)
