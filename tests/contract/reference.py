"""What a store must do, in plain Python: no file, no batches, no caches, and nothing fast."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace
from tests.support.clocks import Clocks

from tocsin.domain.devices import Device
from tocsin.domain.events import Event, EventId, UserId
from tocsin.store.records import DEAD_LETTER, Attempt, Backlog, DeadToken, Item, Parked, Settlement, State


class Refused(Struct, frozen=True):
    why: str
    index: int | None = None


def in_order(parked: Parked) -> tuple[object, ...]:
    return (parked.lane, parked.due_ms, parked.tries, parked.targets)


class Unit(Struct, eq=False):
    """One piece of work: a fresh event, or what is parked of one."""

    id: EventId
    number: int
    urgent: bool
    parked: Parked | None
    owned: bool = False
    given_back: bool = False
    was_given_back: bool = False

    @property
    def fresh(self) -> bool:
        return self.parked is None

    @property
    def lane(self) -> str:
        return "" if self.parked is None else self.parked.lane


class Entry(Struct, eq=False):
    event: Event
    number: int
    attempts: list[Attempt]
    units: list[Unit]
    tried: bool = False
    dead: bool = False
    round: int = 0

    @property
    def state(self) -> State:
        if not self.tried:
            return State.ACCEPTED
        if self.units:
            return State.DELIVERING
        return State.DEAD if self.dead else State.DONE


class Events:
    def __init__(self, clocks: Clocks, max_events: int) -> None:
        self.clocks = clocks
        self.max_events = max_events
        self.by_id: dict[str, Entry] = {}
        self.owned: dict[Item, Unit] = {}
        self.settled: set[Item] = set()
        self.changed = False
        self._touched: set[EventId] = set()
        self._offset = self._measure()

    def _measure(self) -> float:
        return self.clocks.wall_s - self.clocks.monotonic_s

    # -- append --------------------------------------------------------------------------------------------------------

    def append(self, batch: Sequence[Event], *, bounded: bool = True) -> Refused | None:
        self.changed = False
        unknown = {event.id for event in batch} - set(self.by_id)
        if bounded and self.backlog().events + len(unknown) > self.max_events:
            return Refused("full")
        fresh: dict[str, Event] = {}
        for index, event in enumerate(batch):
            known = fresh.get(event.id) or (self.by_id[event.id].event if event.id in self.by_id else None)
            if known is None:
                fresh[event.id] = event
            elif known.body != event.body:
                return Refused("conflict", index)
        for event in fresh.values():
            number = len(self.by_id)
            unit = Unit(event.id, number, event.urgent, None)
            self.by_id[event.id] = Entry(event, number, [], [unit])
            self._touched.add(event.id)
            self.changed = True
        return None

    # -- claim ---------------------------------------------------------------------------------------------------------

    def before_claim(self) -> None:
        """The clock is looked at, and ownership ends, when something is claimed."""
        self.end_overdue()
        before, self._offset = self._offset, self._measure()
        self._bring_forward(int(before * 1000) - int(self._offset * 1000))

    def end_overdue(self) -> None:
        for item in list(self.owned):
            if item.deadline is not None and item.deadline <= self.clocks.monotonic_s:
                self._give_back(item)

    def _bring_forward(self, by_ms: int) -> None:
        if by_ms <= 2000:
            return
        for unit in self._units():
            if unit.parked and not unit.owned and not unit.given_back:
                due_ms = unit.parked.due_ms
                if due_ms > self.clocks.now_ms:
                    due_ms -= by_ms
                    self._touched.add(unit.id)
                unit.parked = Parked(unit.parked.lane, due_ms, unit.parked.tries, unit.parked.targets)

    def _units(self) -> list[Unit]:
        return [unit for entry in self.by_id.values() for unit in entry.units]

    def _ready(self) -> list[Unit]:
        return [unit for unit in self._units() if not unit.owned]

    def open_to_all(self) -> list[Unit]:
        """What may be claimed without a lane."""
        return [unit for unit in self._ready() if unit.fresh or unit.given_back]

    def due(self, lane: str) -> list[Unit]:
        now_ms = self.clocks.now_ms
        return [
            unit
            for unit in self._ready()
            if unit.parked and not unit.given_back and unit.lane == lane and unit.parked.due_ms <= now_ms
        ]

    def expired(self) -> list[Unit]:
        now_ms = self.clocks.now_ms
        return [
            unit
            for unit in self._ready()
            if unit.parked and not unit.given_back and self.by_id[unit.id].event.expires_ms <= now_ms
        ]

    def own(self, item: Item) -> Unit:
        entry = self.by_id[item.event.id]
        assert item.event == entry.event
        ready = [
            unit
            for unit in entry.units
            if not unit.owned
            and (
                item.targets is None
                if unit.parked is None
                else (unit.parked.lane, unit.parked.tries, unit.parked.targets) == (item.lane, item.tries, item.targets)
                and item.round == entry.round
            )
        ]
        # Two parked alike are told apart by when they are due: the one that may be had.
        ready.sort(key=lambda unit: (not unit.given_back, unit.parked.due_ms if unit.parked else 0))
        assert ready, f"claimed, but not to be had: {item}"
        unit = ready[0]
        assert unit.fresh or unit.given_back or unit in self.due(unit.lane) or unit in self.expired()
        unit.owned, unit.given_back = True, False
        self.owned[item] = unit
        return unit

    def release(self, item: Item) -> None:
        if item in self.owned:
            self._give_back(item)

    def _give_back(self, item: Item) -> None:
        unit = self.owned.pop(item)
        unit.owned, unit.given_back, unit.was_given_back = False, True, True

    # -- settle --------------------------------------------------------------------------------------------------------

    def settle(self, settlement: Settlement) -> bool:
        unit = self.owned.pop(settlement.item, None)
        if unit is None:
            return settlement.item in self.settled
        self.settled.add(settlement.item)
        entry = self.by_id[unit.id]
        entry.units.remove(unit)
        entry.units += [Unit(unit.id, entry.number, unit.urgent, parked) for parked in settlement.parked]
        entry.attempts += settlement.attempts
        entry.tried = True
        entry.dead = entry.dead or any(one.result in DEAD_LETTER for one in settlement.attempts)
        self._touched.add(unit.id)
        return True

    # -- dead letters --------------------------------------------------------------------------------------------------

    def dead_letters(self) -> list[EventId]:
        return [entry.event.id for entry in self.by_id.values() if entry.state is State.DEAD]

    def replay(self, ids: Sequence[EventId], lifetime_ms: int) -> int:
        for id in ids:
            entry = self.by_id[id]
            last = {one.device: one for one in entry.attempts}
            order = sorted(
                last, key=lambda device: max(n for n, one in enumerate(entry.attempts) if one.device == device)
            )
            by_lane: dict[str, list[str]] = {}
            for device in order:
                if last[device].result in DEAD_LETTER:
                    by_lane.setdefault(last[device].lane, []).append(device)
            entry.round += 1
            entry.event = replace(entry.event, expires_ms=self.clocks.now_ms + lifetime_ms)
            entry.units = [
                Unit(id, entry.number, entry.event.urgent, Parked(lane, self.clocks.now_ms, 0, tuple(devices)))
                for lane, devices in by_lane.items()
            ]
            entry.dead = False
            self._touched.add(id)
        return len(ids)

    def discard(self, ids: Sequence[EventId]) -> None:
        for id in ids:
            self.by_id[id].dead = False
            self._touched.add(id)

    # -- crash ---------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        self.owned.clear()
        for unit in self._units():
            unit.owned, unit.given_back, unit.was_given_back = False, False, False
        self._offset = self._measure()
        newest = max(self.by_id.values(), key=lambda entry: entry.number, default=None)
        if newest is not None:
            self._bring_forward(newest.event.accepted_ms - self.clocks.now_ms)
        self._touched = {entry.event.id for entry in self.by_id.values()}

    # -- what is known -------------------------------------------------------------------------------------------------

    def backlog(self) -> Backlog:
        open_events = [entry.event for entry in self.by_id.values() if entry.units]
        return Backlog(len(open_events), sum(len(event.body) for event in open_events))

    def touched(self) -> set[EventId]:
        touched, self._touched = self._touched, set()
        return touched

    def told(self, id: EventId) -> tuple[State, list[Attempt]]:
        return self.by_id[id].state, self.by_id[id].attempts

    def waiting(self, id: EventId) -> list[Parked]:
        return sorted((unit.parked for unit in self.by_id[id].units if unit.parked), key=in_order)


class Gone(Struct, eq=False):
    """A registration that was removed."""

    device: Device
    held: bool = False
    """In quarantine."""
    ended: bool = False
    """Its user has deleted it, then or later."""

    @property
    def key(self) -> tuple[str, str]:
        return self.device.owner, self.device.token


class Registrations:
    """Registrations as the store has them; `add` is told what the store made of each."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.devices: dict[tuple[str, str], Device] = {}
        self.gone: list[Gone] = []

    def add(self, device: Device) -> list[Device]:
        self.devices[device.owner, device.token] = device
        own = sorted(self._of(device.owner), key=lambda one: (one is not device, -one.registered_us))
        evicted = own[: self.max_tokens - 1 : -1]
        for one in evicted:
            self.gone.append(Gone(self.devices.pop((one.owner, one.token))))
        return evicted

    def delete(self, owner: UserId, token: str, by_operator: bool) -> bool:
        for one in self.gone:
            if one.key == (owner, token):
                one.ended |= not by_operator
                one.held = False
        device = self.devices.pop((owner, token), None)
        if device is not None:
            self.gone.append(Gone(device, ended=not by_operator))
        return device is not None

    def remove_dead(self, dead: DeadToken, quarantine: bool) -> bool:
        token = dead.device.token
        found = [one for one in self.devices.values() if one.token == token]
        if dead.before_us is not None:
            gone = [one for one in found if one.registered_us < dead.before_us]
        else:
            asked = [one for one in found if one.generation == dead.device.generation]
            gone = [one for one in found if asked and (one in asked or one.registered_us < asked[0].registered_us)]
        for device in gone:
            del self.devices[device.owner, token]
            self.gone.append(Gone(device, held=quarantine))
        return (dead.device.owner, token) in self.devices

    def restore(self, token: str) -> list[tuple[str, str]]:
        """Returns whose registrations came back."""
        return self._back([one for one in self._latest() if one.device.token == token])

    def release(self) -> list[tuple[str, str]]:
        """Returns whose registrations came back."""
        back = self._back([one for one in self._latest() if one.held])
        self.purge()
        return back

    def purge(self) -> int:
        held = [one for one in self.gone if one.held]
        for one in held:
            one.held = False
        return len(held)

    def history(self) -> list[tuple[str, str, int, bool]]:
        """Owner, token, generation, and whether it is in quarantine, of every removal."""
        return sorted((*one.key, one.device.generation, one.held) for one in self.gone)

    def _latest(self) -> list[Gone]:
        """The latest removal of each registration."""
        return list({one.key: one for one in self.gone}.values())

    def _back(self, removals: list[Gone]) -> list[tuple[str, str]]:
        back = []
        for one in sorted(removals, key=self.gone.index, reverse=True):
            room = len(self._of(one.device.owner)) < self.max_tokens
            if room and not one.ended and one.key not in self.devices:
                self.devices[one.key] = one.device
                self.gone.remove(one)
                back.append(one.key)
        return back

    def _of(self, owner: str) -> list[Device]:
        return [one for one in self.devices.values() if one.owner == owner]

    def by_owner(self) -> dict[UserId, list[Device]]:
        owners = {device.owner for device in self.devices.values()}
        return {UserId(owner): sorted(self._of(owner), key=lambda one: one.registered_us) for owner in owners}
