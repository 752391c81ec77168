"""Random histories of a store, crashes and late settlements and jumping clocks among them, against a plain reference.

`TOCSIN_HYPOTHESIS=thorough` makes it thousands of histories.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from tests.contract.conftest import PROFILE
from tests.contract.factories import FACTORIES, KINDS
from tests.contract.reference import Events, Refused, Registrations, Unit, in_order
from tests.contract.support import ACCOUNT, LANE, OTHER_LANE, attempt, claim, make_event, registration
from tests.support.clocks import Clocks

from tocsin.domain.devices import Device, DeviceToken
from tocsin.domain.events import Event, UserId
from tocsin.store.ports import BacklogFull, EventIdConflict, Store
from tocsin.store.records import DeadToken, Item, Parked, Result, Settlement

pytestmark = pytest.mark.slow

T = TypeVar("T")

LANES = (LANE, OTHER_LANE)
MAX_EVENTS = 40
OWNERS = [UserId(f"00000000-0000-4000-9000-00000000000{n}") for n in range(3)]
TOKENS = ["a", "b", "c", "d"]
MAX_TOKENS = 3
ENDINGS = (Result.DELIVERED, Result.TOKEN_DEAD, Result.REFUSED, Result.EXPIRED, Result.CANCELLED)

chosen_ids = st.sampled_from([f"00000000-0000-4000-a000-00000000000{n}" for n in range(6)])
new_events = st.tuples(st.none() | chosen_ids, st.booleans(), st.sampled_from([0, 0, 0, 1]))
leftovers = st.lists(
    st.tuples(st.sampled_from(LANES), st.sampled_from([0, 1, 20, 100]), st.sampled_from(["apns:a", "fcm:b"])),
    max_size=2,
    unique_by=lambda left: left[2],
)
endings = st.lists(st.tuples(st.sampled_from(["apns:x", "fcm:y"]), st.sampled_from(ENDINGS)), max_size=2)
picks = st.lists(st.integers(0, 1000), max_size=6)


def _targets(unit: Unit) -> int:
    assert unit.parked is not None
    return len(unit.parked.targets)


rooms = st.fixed_dictionaries({lane: st.sampled_from([0, 1, 3, 100]) for lane in LANES})


class Histories(RuleBasedStateMachine):
    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="tocsin-model-"))
        self.clocks = Clocks()
        self.life = AsyncExitStack()
        self.events = Events(self.clocks, MAX_EVENTS)
        self.registrations = Registrations(MAX_TOKENS)
        self.held: list[tuple[Item, Unit]] = []
        self.generations: set[int] = set()
        self.store: Store
        self.other: Store | None = None

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(awaitable)

    @initialize()
    def open(self) -> None:
        self.stores = FACTORIES[self.kind](self.directory, self.clocks, self.life)
        self.store = self.run(self.stores.open(max_events=MAX_EVENTS))

    def teardown(self) -> None:
        self.run(self.life.aclose())
        self.loop.close()
        shutil.rmtree(self.directory)

    # -- the queue -----------------------------------------------------------------------------------------------------

    def batch(self, content: list[tuple[str | None, bool, int]]) -> list[Event]:
        return [make_event(self.clocks, id=id, urgent=urgent, padding=more) for id, urgent, more in content]

    @rule(content=st.lists(new_events, max_size=5))
    def append(self, content: list[tuple[str | None, bool, int]]) -> None:
        batch = self.batch(content)
        expected = self.events.append(batch)
        assert self.answer_of(self.store, batch) == expected

    @rule(contents=st.lists(st.lists(new_events, min_size=1, max_size=3), min_size=2, max_size=4))
    def append_together(self, contents: list[list[tuple[str | None, bool, int]]]) -> None:
        """Several producers in one commit. What each has reserved of the bound counts until it is answered."""
        batches = [self.batch(content) for content in contents]
        if self.events.backlog().events + sum(map(len, batches)) > MAX_EVENTS:
            return
        expected = [self.events.append(batch) for batch in batches]

        async def all_at_once() -> list[Refused | None]:
            return list(await asyncio.gather(*(self.answer(self.store, batch) for batch in batches)))

        assert self.run(all_at_once()) == expected

    @rule(content=st.lists(new_events, min_size=1, max_size=3))
    def append_from_another_process(self, content: list[tuple[str | None, bool, int]]) -> None:
        batch = self.batch(content)
        expected = self.events.append(batch, bounded=False)
        assert self.answer_of(self.another_process(), batch) == expected
        self.run(self.stores.noticed(self.store))

    def another_process(self) -> Store:
        if self.other is None:
            self.run(self.stores.noticed(self.store))
            self.other = self.run(self.stores.open(server=False))
        return self.other

    def answer_of(self, store: Store, batch: list[Event]) -> Refused | None:
        return self.run(self.answer(store, batch))

    async def answer(self, store: Store, batch: list[Event]) -> Refused | None:
        try:
            await store.queue.append(batch)
        except BacklogFull:
            return Refused("full")
        except EventIdConflict as conflict:
            return Refused("conflict", conflict.index)
        return None

    def keep(self, items: list[Item]) -> list[Unit]:
        """Every item given out must be one that was to be had."""
        units = [self.events.own(item) for item in items]
        self.held += zip(items, units, strict=True)
        return units

    @rule(limit=st.sampled_from([1, 2, 5, 100]), rooms=rooms)
    def claim(self, limit: int, rooms: dict[str, int]) -> None:
        self.events.before_claim()
        open_before = self.events.open_to_all()
        due_before = {lane: self.events.due(lane) for lane in rooms}
        units = self.keep(self.run(claim(self.store, limit, rooms)))
        parked = [unit for unit in units if unit in due_before.get(unit.lane, ())]
        assert len(units) - len(parked) <= limit
        if open_before:
            assert len(units) > len(parked)
        for lane, room in rooms.items():
            taken = [_targets(unit) for unit in parked if unit.lane == lane]
            left = [_targets(unit) for unit in due_before[lane] if unit not in parked]
            assert sum(taken) <= room or (room and len(taken) == 1)
            assert not left or sum(taken) + max(left) > room, "what is left would have fitted"

    @rule()
    def claim_everything(self) -> None:
        self.events.before_claim()
        expected = self.events.open_to_all() + [unit for lane in LANES for unit in self.events.due(lane)]
        found: list[Unit] = []
        while units := self.keep(self.run(claim(self.store, 50, dict.fromkeys(LANES, 1000)))):
            found += units
        assert {id(unit) for unit in found} == {id(unit) for unit in expected}
        assert len(found) == len(expected)
        fresh = [unit.number for unit in found if unit.fresh and not unit.was_given_back and not unit.urgent]
        assert fresh == sorted(fresh)

    @rule()
    def claim_expired(self) -> None:
        self.events.before_claim()
        expected = self.events.expired()
        units = self.keep(self.run(self.store.schedule.expire(1000)))
        assert {id(unit) for unit in units} == {id(unit) for unit in expected}

    def pick(self, picks: list[int]) -> list[tuple[Item, Unit]]:
        return [self.held[index] for index in dict.fromkeys(pick % len(self.held) for pick in picks)]

    @precondition(lambda self: self.held)
    @rule(picks=picks, left=st.lists(st.tuples(leftovers, endings), min_size=6, max_size=6))
    def settle(self, picks: list[int], left: list[tuple[list[Any], list[Any]]]) -> None:
        """Some of what was ever claimed: late or twice, as it comes."""
        settlements = []
        for (item, _), (waiting, ended) in zip(self.pick(picks), left, strict=False):
            attempts = [attempt(device, result, at_ms=self.clocks.now_ms) for device, result in ended]
            parked = [
                Parked(lane, self.clocks.now_ms + delay_s * 1000, item.tries + 1, (target,))
                for lane, delay_s, target in waiting
            ]
            settlements.append(Settlement(item, attempts, parked))
        expected = [self.events.settle(settlement) for settlement in settlements]
        assert self.run(self.store.queue.settle(settlements)) == expected

    @precondition(lambda self: self.held)
    @rule(picks=picks)
    def release(self, picks: list[int]) -> None:
        items = [item for item, _ in self.pick(picks)]
        for item in items:
            self.events.release(item)
        self.run(self.store.queue.release(items))

    @rule(everything=st.booleans(), elsewhere=st.booleans(), lifetime_s=st.sampled_from([50, 10_000]))
    def replay(self, everything: bool, elsewhere: bool, lifetime_s: int) -> None:
        dead = self.events.dead_letters()
        ids = None if everything else [*dead[:2], "00000000-0000-4000-b000-000000000000"]
        expected = self.events.replay(dead if everything else dead[:2], lifetime_s * 1000)
        store = self.another_process() if elsewhere else self.store
        assert self.run(store.log.replay(ids, lifetime_s * 1000)) == expected
        self.run(self.stores.noticed(self.store))

    @rule(elsewhere=st.booleans())
    def discard(self, elsewhere: bool) -> None:
        dead = self.events.dead_letters()[:1]
        self.events.discard(dead)
        store = self.another_process() if elsewhere else self.store
        assert self.run(store.log.discard(dead)) == len(dead)

    # -- the registry --------------------------------------------------------------------------------------------------

    @rule(owner=st.sampled_from(OWNERS), token=st.sampled_from(TOKENS))
    def register(self, owner: UserId, token: str) -> None:
        self.clocks.pass_time(0.001)
        evicted = self.run(self.store.registry.add(registration(token, owner=owner), MAX_TOKENS))
        (device,) = self.run(self.find(owner, token))
        assert device.generation not in self.generations
        self.generations.add(device.generation)
        assert evicted == self.registrations.add(device)

    async def find(self, owner: UserId, token: str) -> list[Device]:
        return [device for device in await self.store.registry.find(DeviceToken(token)) if device.owner == owner]

    @rule(owner=st.sampled_from(OWNERS), token=st.sampled_from(TOKENS), by_operator=st.booleans())
    def unregister(self, owner: UserId, token: str, by_operator: bool) -> None:
        expected = self.registrations.delete(owner, token, by_operator)
        deleted = self.store.registry.delete(owner, "apns", DeviceToken(token), by_operator=by_operator)
        assert self.run(deleted) == expected

    @precondition(lambda self: self.registrations.devices)
    @rule(picks=st.lists(st.integers(0, 1000), min_size=1, max_size=2), how=st.data(), quarantine=st.booleans())
    def remove_dead(self, picks: list[int], how: st.DataObject, quarantine: bool) -> None:
        """By the provider's timestamp, or by the registration that was read, which may have been replaced since."""
        known = sorted(self.registrations.devices.values(), key=lambda one: (one.owner, one.token))
        tokens = []
        for pick in picks:
            device = known[pick % len(known)]
            before_us = how.draw(st.none() | st.sampled_from([one.registered_us for one in known]))
            replaced = how.draw(st.booleans())
            read = replace(device, generation=1) if replaced else device
            tokens.append(DeadToken(read, ACCOUNT, "410 Unregistered", before_us))
        expected = [self.registrations.remove_dead(token, quarantine) for token in tokens]
        assert self.run(self.store.registry.remove_dead(tokens, quarantine=quarantine)) == expected

    @rule(token=st.sampled_from(TOKENS))
    def restore(self, token: str) -> None:
        restored = self.registrations.restore(token)
        assert self.run(self.store.registry.restore("apns", DeviceToken(token), MAX_TOKENS)) == len(restored)
        self.they_are_new(restored)

    @rule()
    def release_quarantine(self) -> None:
        released = self.registrations.release()
        assert self.run(self.store.registry.release_quarantine(ACCOUNT, MAX_TOKENS)) == len(released)
        self.they_are_new(released)

    def they_are_new(self, back: list[tuple[str, str]]) -> None:
        """Each is a new registration of what was before: its generation is new."""
        for owner, token in back:
            (device,) = self.run(self.find(UserId(owner), token))
            before = self.registrations.devices[owner, token]
            assert replace(device, generation=before.generation) == before
            assert device.generation not in self.generations
            self.generations.add(device.generation)
            self.registrations.devices[owner, token] = device

    @rule()
    def purge_quarantine(self) -> None:
        expected = self.registrations.purge()
        assert self.run(self.store.registry.purge_quarantine(ACCOUNT)) == expected

    # -- what befalls both ---------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 10, 31, 120]))
    def pass_time(self, seconds: float) -> None:
        self.clocks.pass_time(seconds)

    @rule(by_s=st.sampled_from([-7200, -1, 3600]))
    def set_the_clock(self, by_s: int) -> None:
        self.clocks.set_wall_clock(by_s=by_s)

    @rule()
    def crash(self) -> None:
        self.other = None
        self.store = self.run(self.stores.crash(max_events=MAX_EVENTS))
        self.held.clear()
        self.events.crash()

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        self.run(self.compare())

    async def compare(self) -> None:
        assert await self.store.queue.backlog() == self.events.backlog()
        assert await self.store.registry.devices_of(OWNERS) == self.registrations.by_owner()
        history = await self.store.registry.history()
        gone = [(one.device.owner, one.device.token, one.device.generation, one.quarantined) for one in history]
        assert sorted(gone) == self.registrations.history()
        for event_id in self.events.touched():
            record = await self.store.log.record(event_id)
            assert record is not None
            assert (record.state, record.attempts) == self.events.told(event_id)
            assert sorted(record.waiting, key=in_order) == self.events.waiting(event_id)
        assert await self.store.log.count_dead_letters() == len(self.events.dead_letters())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_random_histories_agree_with_the_reference(kind: str) -> None:
    machine = type(f"Histories_{kind}", (Histories,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(settings.get_profile(PROFILE)))
