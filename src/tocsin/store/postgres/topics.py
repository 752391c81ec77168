"""Which topics are right, in the table `topic`; and the devices that do not belong to theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tocsin.store.postgres.connections import Connection
from tocsin.store.records import TopicReached

_NOTE: Final = """INSERT INTO topic(provider, account, name, reached_ms)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS t(provider, account, name, at_ms)
    ORDER BY 1, 2, 3 ON CONFLICT (provider, account, name) DO UPDATE SET reached_ms = excluded.reached_ms"""
_ALL: Final = "SELECT provider, account, name, reached_ms FROM topic ORDER BY provider, account, name"
# The members of a complaint are those of `domain.devices.Complaint`, in its order.
UNFIT: Final = """complaint IS NOT NULL AND complaint::jsonb ->> 4 <> ''
    AND (complaint::jsonb ->> 2)::bigint >= (complaint::jsonb ->> 1)::bigint + $1
    AND EXISTS (SELECT 1 FROM topic WHERE topic.provider = device.provider
        AND topic.account = complaint::jsonb ->> 3 AND topic.name = complaint::jsonb ->> 4
        AND topic.reached_ms > (complaint::jsonb ->> 1)::bigint)
    ORDER BY owner, provider, token LIMIT $2"""
"""Where a device has said nothing else for so many milliseconds, although its topic is right."""


async def note(connection: Connection, reached: Sequence[TopicReached]) -> None:
    """Note topics on which devices were reached; the last of each counts."""
    latest = {(one.provider, one.account, one.topic): one.at_ms for one in reached}
    if latest:
        rows = [(*key, at_ms) for key, at_ms in latest.items()]
        await connection.execute(_NOTE, *[list(column) for column in zip(*rows, strict=True)])


async def read(connection: Connection) -> list[TopicReached]:
    """All of them."""
    return [TopicReached(*row) for row in await connection.fetch(_ALL)]
