"""Where an event is: its log, by its owner; its stream, by log and urgency; its place in the stream."""

from __future__ import annotations

from typing import Final
from zlib import crc32

from tocsin.domain.events import UserId
from tocsin.store.leases import Lease

LOGS: Final = 64
"""So many logs there are, for ever: an owner's events stay in one of them."""
DAY_MS: Final = 24 * 3600 * 1000
XMIN: Final = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
"""In a statement: all transactions below this number have ended, so nothing comes before what is there of them."""


def log_of(owner: UserId) -> int:
    return crc32(owner.encode()) % LOGS


def stream_of(owner: UserId, urgent: bool) -> int:
    """Each log has two streams: what is urgent overtakes the rest, and each is read in order."""
    return 2 * log_of(owner) + urgent


def streams_of(log: int) -> tuple[int, int]:
    return 2 * log, 2 * log + 1


def day_of(now_ms: int) -> int:
    """By which day's partition holds it: days since 1970, UTC."""
    return now_ms // DAY_MS


class LogLease(Lease, eq=False, gc=False):
    """What this store knows an item by: the event's place, the parked row that it is (0: none), and its lease."""

    day: int
    stream: int
    xid: int
    seq: int
    parked_id: int
    epoch: int
    """Of the ownership of its log under which it was claimed."""
    may_be_settled: bool = False
    """A commit whose answer was lost may have settled it."""

    @property
    def place(self) -> tuple[int, int, int]:
        """By which the event is found within its day."""
        return self.stream, self.xid, self.seq
