"""Which topics are right, in the table `topic`; and the devices that do not belong to theirs."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from tocsin.store.records import TopicReached
from tocsin.store.sqlite import rows

_NOTE: Final = """INSERT INTO topic(provider, account, name, reached_ms) VALUES {rows}
    ON CONFLICT(provider, account, name) DO UPDATE SET reached_ms = excluded.reached_ms"""
_ALL: Final = "SELECT provider, account, name, reached_ms FROM topic ORDER BY provider, account, name"
# The members of a complaint are those of `domain.devices.Complaint`, in its order.
UNFIT: Final = """complaint IS NOT NULL AND json_extract(complaint, '$[4]') != ''
    AND json_extract(complaint, '$[2]') >= json_extract(complaint, '$[1]') + ?
    AND EXISTS (SELECT 1 FROM topic WHERE topic.provider = device.provider
        AND topic.account = json_extract(complaint, '$[3]') AND topic.name = json_extract(complaint, '$[4]')
        AND topic.reached_ms > json_extract(complaint, '$[1]'))
    LIMIT ?"""
"""Where a device has said nothing else for so many milliseconds, although its topic is right."""


def note(driver: sqlite3.Connection, reached: Sequence[TopicReached]) -> None:
    """Note topics on which devices were reached; the last of each counts."""
    latest = {(one.provider, one.account, one.topic): one.at_ms for one in reached}
    rows.execute(driver, _NOTE, [(*key, at_ms) for key, at_ms in latest.items()])


def read(driver: sqlite3.Connection) -> list[TopicReached]:
    """All of them."""
    return [TopicReached(*row) for row in driver.execute(_ALL).fetchall()]
