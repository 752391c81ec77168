"""What nobody has tried yet: a cursor in each stream of this node's logs, and what comes after it in the table.

A row is read when every transaction with a lower number has ended: the numbers of rows are given before commits end, so
a cursor over them alone would pass over what commits late. The order is that of (transaction, number).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from tocsin.domain.events import Event, EventId, UserId
from tocsin.domain.urgency import Turns, reserved
from tocsin.store.envelope import parted
from tocsin.store.leases import Leases
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.contents import Contents
from tocsin.store.postgres.ownership import Ownership
from tocsin.store.postgres.places import XMIN, LogLease
from tocsin.store.records import Item

CLAIM_BYTES: Final = 8 * 1024 * 1024
"""How much content is claimed at a time; always one event, however large it is."""
_FEWEST_OF_A_STREAM: Final = 16

# Behind a takeover (below `until`) some may be settled already, which nobody here remembers.
_READ: Final = f"""SELECT day, stream, xid, seq, id::text, owner::text, message, accepted_ms, expires_ms,
        content_key, body, xid < {XMIN} AS is_in_order, found
    FROM (
        SELECT following.*, sum(size) OVER (ORDER BY xid, seq ROWS UNBOUNDED PRECEDING) AS total,
            count(*) OVER () AS found
        FROM (
            SELECT e.* FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[])
                AS own(stream, xid, seq, until)
            CROSS JOIN LATERAL (
                SELECT * FROM event WHERE event.stream = own.stream AND (event.xid, event.seq) > (own.xid, own.seq)
                    AND event.day BETWEEN $5 AND $6 AND (event.xid >= own.until OR NOT EXISTS (
                        SELECT 1 FROM settlement WHERE settlement.stream = event.stream
                            AND settlement.xid = event.xid AND settlement.seq = event.seq AND settlement.unit = 0))
                ORDER BY event.xid, event.seq LIMIT $7
            ) AS e
            ORDER BY xid, seq LIMIT $8
        ) AS following
    ) AS bounded
    WHERE total - size < {CLAIM_BYTES} ORDER BY xid, seq"""
LOW_WATER: Final = "SELECT stream, day, xid, seq FROM low_water WHERE stream = ANY($1::smallint[])"
# Each stream's low water, and the first event that may follow it: very many changes of the registry may lie between.
_BEGIN: Final = f"""SELECT low.stream, low.day, low.xid, low.seq, event.day, event.xid, event.seq,
        {XMIN}, pg_snapshot_xmax(pg_current_snapshot())::text::bigint
    FROM low_water AS low LEFT JOIN LATERAL (
        SELECT day, xid, seq FROM event WHERE event.stream = low.stream AND (event.xid, event.seq) > (low.xid, low.seq)
            AND event.day >= low.day - 1 AND event.id IS NOT NULL ORDER BY event.xid, event.seq LIMIT 1
    ) AS event ON true WHERE low.stream = ANY($1::smallint[])"""
_SET_LOW: Final = """UPDATE low_water SET day = t.day, xid = t.xid, seq = t.seq
    FROM unnest($1::smallint[], $2::int[], $3::bigint[], $4::bigint[]) AS t(stream, day, xid, seq)
    WHERE low_water.stream = t.stream"""


class Stream(Struct, eq=False):
    """How far one stream is read, and what of it is not settled."""

    number: int
    day: int
    xid: int
    seq: int
    until: int
    """Below this transaction's number the holder before may have settled something."""
    may_have_more: bool = True
    open: dict[tuple[int, int], int] = {}
    """What was claimed and neither settled nor parked yet, in order: transaction and number, with the day."""
    written: tuple[int, int, int] = (0, 0, 0)

    def low_water(self) -> tuple[int, int, int]:
        """Day, transaction and number: everything up to there is settled, or parked."""
        if not self.open:
            return self.day, self.xid, self.seq
        (xid, seq), day = next(iter(self.open.items()))
        return min(day, self.day), xid, seq - 1


def _begun(row: Any) -> Stream:
    """A stream at the first event that may follow its low water; or, where that comes later, where transactions begin
    that have not ended: what they change of the registry is not to be passed over."""
    number, day, xid, seq, event_day, event_xid, event_seq, ended_below, until = row
    if event_xid is not None and event_xid < ended_below:
        day, xid, seq = event_day, event_xid, event_seq - 1
    else:
        xid, seq = max((xid, seq), (ended_below, 0))
    return Stream(number, day, xid, seq, until, open={})


class HeldUp(Struct, frozen=True):
    """The first row that was found too early, and since when (monotonic)."""

    stream: int
    xid: int
    since: float


class FreshEvents:
    """All streams of this node, and the order in which what they hold is given out."""

    def __init__(
        self,
        database: Database,
        ownership: Ownership,
        leases: Leases,
        now_day: Callable[[], int],
        changed: Callable[[Iterable[UserId]], None],
        contents: Contents,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._ownership = ownership
        self._leases = leases
        self._now_day = now_day
        self._changed = changed
        """Told of the owners whose devices have changed before what follows in their log."""
        self._contents = contents
        self._turns = Turns()
        self._streams: dict[int, Stream] = {}
        self._of_a_stream: int | None = None
        self.has_passed_marks = False
        """Devices have changed before what was read: their signals are to be heard before it is given out."""
        self.is_held_up = False
        """Something was found that cannot be read yet: a transaction before it has not ended."""
        self._monotonic = monotonic
        self._held: HeldUp | None = None

    # -- which streams -------------------------------------------------------------------------------------------------

    async def look(self, streams: Sequence[int]) -> list[Stream]:
        """From where these are to be read, which become this node's: everything before is settled, or is a change of
        the registry. Those that are passed over here are to be heard of as signals before anything is given out."""
        rows = await self._database.read(lambda one: one.fetch(_BEGIN, streams))
        return [_begun(row) for row in rows]

    def take(self, streams: Iterable[Stream]) -> None:
        """These are this node's from now on."""
        self._streams.update({stream.number: stream for stream in streams})
        self.has_passed_marks = True

    def drop(self, streams: Collection[int]) -> None:
        for number in streams:
            self._streams.pop(number, None)
        if self._held is not None and self._held.stream in streams:
            self._held = None

    def numbers(self) -> list[int]:
        return list(self._streams)

    def places(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Stream, day, transaction and number: up to where each stream is settled."""
        columns: tuple[list[int], list[int], list[int], list[int]] = [], [], [], []
        for stream in self._streams.values():
            for column, value in zip(columns, (stream.number, *stream.low_water()), strict=True):
                column.append(value)
        return columns

    def anything_open(self, stream: int) -> bool:
        found = self._streams.get(stream)
        return found is not None and bool(found.open)

    def look_again(self, streams: Iterable[int] | None = None) -> bool:
        """There may be something new in these (None: in all); whether any of them is this node's."""
        found = list(self._streams.values())
        if streams is not None:
            found = [self._streams[number] for number in streams if number in self._streams]
        for stream in found:
            stream.may_have_more = True
        return bool(found)

    def held_up_s(self) -> float:
        """For how long something has been found that cannot be read yet; 0 where there is nothing."""
        return 0.0 if self._held is None else self._monotonic() - self._held.since

    @property
    def may_have_more(self) -> bool:
        return any(self._leases.again) or any(stream.may_have_more for stream in self._claimable())

    # -- claims --------------------------------------------------------------------------------------------------------

    async def claim(self, items: list[Item], limit: int) -> None:
        """Add up to `limit` items. Urgent first, but some room is reserved for the others as long as there are any."""
        turn, kept = self._turns.next(), 0
        self.is_held_up = False
        if self._leases.again[0] or any(stream.may_have_more for stream in self._claimable(0)):
            kept = reserved(limit, turn)
        for urgent, most in ((1, limit - kept), (0, limit), (1, limit)):
            again = self._leases.again[urgent]
            while again and len(items) < most:
                items += self._leases.grant([again.popleft()])
            wanted = most - len(items)
            if wanted > 0:
                items += self._leases.grant(await self._read(urgent, wanted))

    async def _read(self, urgent: int, limit: int) -> list[Item]:
        streams = [stream for stream in self._claimable(urgent) if stream.may_have_more]
        if not streams:
            return []
        today = self._now_day()
        first_day = min([stream.day for stream in streams] + [today]) - 1
        of_a_stream = min(limit, self._of_a_stream or limit)
        for stream in streams:
            stream.may_have_more = False  # unless somebody says so while it is read
        try:
            rows = await self._database.read(
                lambda one: one.fetch(
                    _READ,
                    [stream.number for stream in streams],
                    [stream.xid for stream in streams],
                    [stream.seq for stream in streams],
                    [stream.until for stream in streams],
                    first_day,
                    max([today, *[stream.day for stream in streams]]) + 1,
                    of_a_stream,
                    limit,
                )
            )
            await self._contents.learn(row["content_key"] for row in rows)
            bodies = [
                b"" if row["id"] is None else self._contents.open(row["content_key"], row["id"], row["body"])
                for row in rows
            ]
        except BaseException:
            for stream in streams:
                stream.may_have_more = True
            raise
        return self._taken(streams, rows, bodies, of_a_stream, limit, today)

    def _taken(
        self,
        streams: Sequence[Stream],
        rows: Sequence[Any],
        bodies: Sequence[bytes],
        of_a_stream: int,
        limit: int,
        today: int,
    ) -> list[Item]:
        """Account for what was read, up to the first row that is not in order yet."""
        items: list[Item] = []
        changed: list[UserId] = []
        numbers: dict[int, int] = {}
        cut = bool(rows) and rows[0]["found"] > len(rows)
        held = self._ownership.held
        held_up: Any = None
        passed = 0
        # A log that was lost and taken again meanwhile is read anew, from elsewhere.
        still = {stream.number: stream for stream in streams if self._streams.get(stream.number) is stream}
        for row, body in zip(rows, bodies, strict=True):
            day, number, xid, seq, id, owner, message, accepted, expires, _, _, is_in_order, _ = row
            numbers[number] = numbers.get(number, 0) + 1
            if not is_in_order:
                self.is_held_up, held_up = True, row
                break  # and so is all that follows
            passed = xid
            stream = still.get(number)
            if stream is None or (ownership := held.get(number >> 1)) is None or (xid, seq) <= (stream.xid, stream.seq):
                continue  # the log was lost meanwhile
            stream.xid, stream.seq, stream.day = xid, seq, day
            if id is None:
                changed.append(UserId(owner))
                continue
            stream.open[xid, seq] = day
            lease = LogLease(day, number, xid, seq, 0, ownership.epoch)
            items.append(Item(Event(EventId(id), UserId(owner), message, accepted, expires, *parted(body)), lease))
        if changed:
            self.has_passed_marks = True
            self._changed(changed)
        is_cut = len(rows) == limit or cut or max(numbers.values(), default=0) == of_a_stream
        self._note_held_up(streams, held_up, passed, is_cut)
        full = is_cut or self.is_held_up
        if full:
            for stream in streams:
                stream.may_have_more = True
            self._of_a_stream = max(_FEWEST_OF_A_STREAM, 2 * limit // max(1, len(numbers)))
        else:
            self._of_a_stream = None
            for stream in streams:
                stream.day = today  # what is appended from now on is of today
        return items

    def _note_held_up(self, streams: Sequence[Stream], row: Any, passed: int, is_cut: bool) -> None:
        """`row` was found too early, if any was; `passed` is the last transaction that was read; `is_cut` whether there
        may be more than was read."""
        held = self._held
        if held is not None:
            is_gone = row is None and not is_cut and any(stream.number == held.stream for stream in streams)
            if passed >= held.xid or is_gone:
                self._held = None
        if row is not None and self._held is None:
            self._held = HeldUp(row["stream"], row["xid"], self._monotonic())

    def _claimable(self, urgent: int | None = None) -> list[Stream]:
        held = self._ownership.held
        return [
            stream
            for stream in self._streams.values()
            if (urgent is None or stream.number & 1 == urgent)
            and (own := held.get(stream.number >> 1)) is not None
            and not own.leaving
        ]

    # -- what is settled -----------------------------------------------------------------------------------------------

    def settled(self, lease: LogLease) -> None:
        """The event has its settlement: a takeover need not read it."""
        stream = self._streams.get(lease.stream)
        if stream is not None:
            stream.open.pop((lease.xid, lease.seq), None)

    async def write_low_water(self, connection: Connection) -> None:
        """Note how far each stream is settled, where that has changed."""
        changed = [(stream, low) for stream in self._streams.values() if (low := stream.low_water()) != stream.written]
        if not changed:
            return
        columns = zip(*[(stream.number, *low) for stream, low in changed], strict=True)
        await connection.execute(_SET_LOW, *map(list, columns))
        for stream, low in changed:
            stream.written = low
