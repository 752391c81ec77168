"""Schedule on PostgreSQL: deliveries that wait for their lane or for their time, in the table `parked`.

Nothing is written to claim them: nobody else claims from this node's logs, and which rows are out is kept in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from msgspec import Struct

from tocsin.domain.urgency import Turns, reserved
from tocsin.store.claims import Claims
from tocsin.store.leases import Leases, leases_of
from tocsin.store.ports import WriteFailure
from tocsin.store.postgres import due_sql
from tocsin.store.postgres.connections import Connection, Database
from tocsin.store.postgres.contents import Contents
from tocsin.store.postgres.due_sql import Due
from tocsin.store.postgres.fresh import CLAIM_BYTES
from tocsin.store.postgres.ownership import Ownership
from tocsin.store.postgres.places import LogLease
from tocsin.store.postgres.session import Session
from tocsin.store.postgres.settle_sql import LONGEST_DELAY_MS
from tocsin.store.postgres.signals import PostgresSignals
from tocsin.store.records import Item, LanesWoken, Parked, Signal


class _Meanwhile(Struct, eq=False):
    """What becomes due of lanes, and is woken, while something is read: what was read may be older."""

    due: dict[str, int] = {}
    woken: dict[str, int] = {}


class _Claimed(Struct):
    """What was read of a lane for a claim."""

    lane: str
    items: list[Item]
    is_exhausted: bool
    """Whether nothing that is due is left."""
    earliest_ms: int | None
    """When the first of what is left is due."""


class PostgresSchedule:
    """See `ports.Schedule`."""

    def __init__(
        self,
        database: Database,
        session: Session | None,
        ownership: Ownership,
        claims: Claims,
        leases: Leases,
        signals: PostgresSignals,
        now_ms: Callable[[], int],
        contents: Contents,
    ) -> None:
        self._database = database
        self._session = session
        self._ownership = ownership
        self._claims = claims
        self._leases = leases
        self._signals = signals
        self._now_ms = now_ms
        self._contents = contents
        self.claiming = asyncio.Lock()
        """Held while something is being claimed."""
        self._turns = Turns()
        self._due: dict[str, int] = {}
        self._woken: dict[str, int] = {}
        """Up to which row the deliveries of a lane are due whatever their time, while there may be any of them."""
        self._meanwhile: list[_Meanwhile] = []
        self._claimed: dict[str, set[int]] = {}
        """The rows that are out, by lane."""
        self._wakings: set[asyncio.Task[None]] = set()
        self._to_wake: set[str] = set()
        """Lanes that another process has woken, and this node could not yet."""
        signals.when_elsewhere(self._changed_elsewhere)

    # -- what others tell ----------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Look at everything that is parked in this node's logs."""
        claimed = [id for ids in self._claimed.values() for id in ids]
        streams = self._streams()
        with self._watching() as meanwhile:
            rows = await self._database.read(lambda one: due_sql.overview(one, streams, claimed))
        now_ms = self._now_ms()
        self._due = {lane: min(due_ms, now_ms) if woken else due_ms for lane, due_ms, woken, _ in rows}
        self._woken = {lane: upto for lane, _, woken, upto in rows if woken and upto is not None}
        self._woken |= meanwhile.woken
        for lane, due_ms in meanwhile.due.items():
            self._is_due(lane, due_ms)
        self._claims.something.set()

    def parked(self, parked: Sequence[Parked]) -> None:
        """These were parked just now."""
        for one in parked:
            self._is_due(one.lane, one.due_ms)

    def settled(self, leases: Iterable[tuple[str | None, int]]) -> None:
        """These rows (lane and number) are out no more."""
        for lane, id in leases:
            if lane is not None and (claimed := self._claimed.get(lane)) is not None:
                claimed.discard(id)

    def dropped(self, streams: Sequence[int]) -> None:
        """The logs of these streams are lost."""
        out = {lease.parked_id for lease in self._leases.all() if isinstance(lease, LogLease)}
        for claimed in self._claimed.values():
            claimed &= out

    # -- ports.Schedule ------------------------------------------------------------------------------------------------

    async def due(self) -> Mapping[str, int]:
        self._claims.look_at_clock()
        if self._claims.set_back_ms:
            # Here, too: by times that are late by that much, nothing would be claimed.
            async with self.claiming:
                await self._claims.move_with_the_clock(self.bring_forward)
        return self._due

    async def claim_due(
        self, lanes: Mapping[str, int], size_bytes: int = CLAIM_BYTES, only: Mapping[str, bool] = {}
    ) -> list[Item]:
        return await self._claims.to_the_end(self._claim_due(lanes, size_bytes, only))

    async def expire(self, limit: int) -> list[Item]:
        return await self._claims.to_the_end(self._expire(limit))

    async def wake(self, lanes: Sequence[str]) -> None:
        signal = LanesWoken(tuple(lanes))

        async def wake(connection: Connection) -> dict[str, int]:
            woken = await due_sql.wake(connection, lanes)
            await self._signals.write(connection, [signal])
            return woken

        # On the session of a node that delivers: after what it is settling just now.
        if self._session is not None and self._ownership.held:
            woken = await self._session.run(wake)
        else:
            woken = await self._database.write(wake)
        self._woke(woken)
        self._signals.publish([signal])

    def _woke(self, woken: Mapping[str, int]) -> None:
        if self._ownership.held:
            now_ms = self._now_ms()
            for lane, upto in woken.items():
                self._woken[lane] = upto
                for meanwhile in self._meanwhile:
                    meanwhile.woken[lane] = upto
                self._is_due(lane, now_ms)
            self._claims.something.set()

    def _changed_elsewhere(self, signal: Signal) -> None:
        if isinstance(signal, LanesWoken) and self._ownership.held:
            waking = asyncio.create_task(self._wake_here(signal.lanes), name="waking lanes")
            self._wakings.add(waking)
            waking.add_done_callback(self._wakings.discard)

    async def _wake_here(self, lanes: Sequence[str]) -> None:
        self._to_wake.update(lanes)
        with contextlib.suppress(WriteFailure):
            await self.wake_here()

    async def wake_here(self) -> None:
        """Another process has woken lanes: what this node was settling meanwhile is woken, too. What could not be is
        tried again a second later. Raises WriteFailure."""
        assert self._session is not None
        lanes = sorted(self._to_wake)
        if lanes:
            self._woke(await self._session.run(lambda one: due_sql.wake(one, lanes)))
            self._to_wake.difference_update(lanes)

    async def woken(self) -> None:
        """Returns when all that others have woken is."""
        await asyncio.gather(*self._wakings)

    async def bring_forward(self, by_ms: int, streams: Sequence[int] | None = None) -> None:
        """The clock was set back: what is parked waits as long as was meant, not until that hour comes again."""
        self._leases.clock_set_back(by_ms)
        streams = self._streams() if streams is None else streams
        claimed = [id for ids in self._claimed.values() for id in ids]
        after: int | None = 0
        last = await self._database.read(due_sql.newest)
        while after is not None and after < last:
            now_ms = self._now_ms()
            times = due_sql.Times(by_ms, now_ms, now_ms + LONGEST_DELAY_MS)
            step = partial(due_sql.bring_forward, streams=streams, times=times, after=after, last=last, out=claimed)
            after = await self._database.write(step)
        await self.refresh()

    # -- within --------------------------------------------------------------------------------------------------------

    def _is_due(self, lane: str, due_ms: int) -> None:
        """Something of this lane is due then, or before."""
        earliest = self._due.get(lane)
        if earliest is None or due_ms < earliest:
            self._due[lane] = due_ms
            self._claims.something.set()
        for meanwhile in self._meanwhile:
            meanwhile.due[lane] = min(due_ms, meanwhile.due.get(lane, due_ms))

    @contextlib.contextmanager
    def _watching(self) -> Iterator[_Meanwhile]:
        meanwhile = _Meanwhile()
        self._meanwhile.append(meanwhile)
        try:
            yield meanwhile
        finally:
            self._meanwhile.remove(meanwhile)

    async def _claim_due(self, lanes: Mapping[str, int], size_bytes: int, only: Mapping[str, bool]) -> list[Item]:
        async with self.claiming:
            await self._claims.prepare()
            await self._claims.move_with_the_clock(self.bring_forward)
            now_ms, due = self._now_ms(), self._due
            wanted = {lane: room for lane, room in lanes.items() if room > 0 and due.get(lane, now_ms + 1) <= now_ms}
            if not wanted:
                return []
            turn, share = self._turns.next(), min(size_bytes, CLAIM_BYTES // len(wanted))
            found: list[_Claimed] = []
            with self._watching() as meanwhile:
                for lane, room in wanted.items():
                    look = partial(
                        self._look,
                        lane=lane,
                        room=room,
                        size_bytes=share,
                        now_ms=now_ms,
                        turn=turn,
                        only=only.get(lane),
                    )
                    found.append(await self._database.read(look))
            # Where a look has failed nothing is out, and nothing has changed.
            return self._leases.grant([item for one in found for item in self._taken(one, meanwhile, now_ms)])

    async def _look(
        self, connection: Connection, lane: str, room: int, size_bytes: int, now_ms: int, turn: int, only: bool | None
    ) -> _Claimed:
        claimed = self._claimed.get(lane, ())
        asked = Due(lane, self._streams(), now_ms, self._woken.get(lane, 0), claimed, self._contents)
        of_lane = _DueOfALane(connection, asked, room, size_bytes)
        items = self._owned(await (of_lane.claim(turn) if only is None else of_lane.claim_only(urgent=only)))
        asked.claimed = [*claimed, *(lease.parked_id for lease in leases_of(items, LogLease))]
        earliest_ms = await asked.earliest(connection)
        return _Claimed(lane, items, of_lane.is_exhausted, earliest_ms)

    def _taken(self, found: _Claimed, meanwhile: _Meanwhile, now_ms: int) -> list[Item]:
        """Account for what a claim has read of a lane; returns what is out from now on."""
        lane, earliest_ms = found.lane, found.earliest_ms
        if found.is_exhausted and lane not in meanwhile.woken:
            self._woken.pop(lane, None)
        if earliest_ms is None:
            self._due.pop(lane, None)
        else:
            self._due[lane] = min(earliest_ms, now_ms) if lane in self._woken else earliest_ms
        if lane in meanwhile.due:
            self._is_due(lane, meanwhile.due[lane])
        items = self._still_owned(found.items)
        self._claimed.setdefault(lane, set()).update([lease.parked_id for lease in leases_of(items, LogLease)])
        return items

    async def _expire(self, limit: int) -> list[Item]:
        async with self.claiming:
            await self._claims.prepare()
            await self._claims.move_with_the_clock(self.bring_forward)
            now_ms, streams = self._now_ms(), self._streams()
            out = [id for ids in self._claimed.values() for id in ids]
            found = await self._database.read(
                lambda one: due_sql.expired(one, streams, now_ms, out, limit, self._contents)
            )
            items = self._owned(found)
            for item, lease in _with_leases(items):
                self._claimed.setdefault(item.lane or "", set()).add(lease.parked_id)
            return self._leases.grant(items)

    def _still_owned(self, items: Sequence[Item]) -> list[Item]:
        """Those whose log was not lost since they were read."""
        return [item for item, lease in _with_leases(items) if self._ownership.holds(lease.stream, lease.epoch)]

    def _owned(self, items: Sequence[Item]) -> list[Item]:
        """Those whose log is still this node's, under its epoch."""
        kept = []
        for item, lease in _with_leases(items):
            held = self._ownership.held.get(lease.stream >> 1)
            if held is not None:
                lease.epoch = held.epoch
                kept.append(item)
        return kept

    def _streams(self) -> list[int]:
        return [stream for stream in self._ownership.streams() if not self._ownership.held[stream >> 1].leaving]


def _with_leases(items: Sequence[Item]) -> Iterable[tuple[Item, LogLease]]:
    return zip(items, leases_of(items, LogLease), strict=True)


class _DueOfALane:
    """One claim of what is due of a lane: `room` targets and `size_bytes` of content are left to be taken."""

    def __init__(self, connection: Connection, due: Due, room: int, size_bytes: int) -> None:
        self._connection = connection
        self._due = due
        self._room = room
        self._size_bytes = size_bytes
        self._nothing_yet = True
        self.is_exhausted = False
        """Whether nothing that is due is left of the lane."""

    async def claim(self, turn: int) -> list[Item]:
        """Urgent first, but some room is reserved for the others: in every fourth turn for one that needs more."""
        room = self._room
        reserved_for_others, _ = await self._take(0, reserved(room, turn), whole=reserved(1, turn) > 0)
        urgent, no_urgent_left = await self._take(1, room, whole=True)
        others, no_others_left = await self._take(0, room, whole=True)
        self.is_exhausted = no_urgent_left and no_others_left
        return urgent + reserved_for_others + others

    async def claim_only(self, *, urgent: bool) -> list[Item]:
        items, _ = await self._take(int(urgent), self._room, whole=True)
        return items

    async def _take(self, urgent: int, most: int, *, whole: bool) -> tuple[list[Item], bool]:
        """Up to `most` targets, and whether there are no more. `whole`: the first item of all is taken however many it
        has."""
        left, items = min(most, self._room), list[Item]()
        while left > 0 and (self._size_bytes > 0 or self._nothing_yet):
            # A statement at a time, as a row may have a hundred targets: what is not taken was read for nothing.
            found = await self._due.fetch(self._connection, urgent, left, self._size_bytes)
            taken = 0
            for item in found:
                assert item.targets is not None
                targets = len(item.targets)
                if (targets > left or self._size_bytes <= 0) and not (whole and self._nothing_yet):
                    break
                self._nothing_yet = False
                left -= targets
                self._room -= targets
                self._size_bytes -= len(item.event.body)
                items.append(item)
                taken += 1
                assert isinstance(item.handle, LogLease)
                self._due.claimed.append(item.handle.parked_id)
            if not found:
                return items, True
            if taken < len(found):
                break
        return items, False
