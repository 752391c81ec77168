"""Starts tocsin's store on the files that a power cut has left, as a server does, and tells what it finds there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from tests.contract.support import done, make_event, registration
from tests.power_loss import facts
from tests.power_loss.disk import State, lay_out
from tests.power_loss.told import Facts
from tests.sqlite.loop_worker import LoopWorkers
from tests.support.clocks import Clocks
from tocsin.domain.events import Event
from tocsin.providers.base import delivery_id
from tocsin.store.audit_verification import verify_all
from tocsin.store.master_keys import KeyFile
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import EventRecord, Item, Query
from tocsin.store.records import State as EventState
from tocsin.store.searching import matching
from tocsin.store.sqlite.maintenance import check
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

MOST_EVENTS = 10_000
KEPT_KEYS = "kept.key"
QUERIES: Final = (Query(), Query(outcomes=frozenset({"delivered"})), Query(outcomes=frozenset({"refused", "waiting"})))
AFTER_S = 24 * 3600.0
"""The machine is started again so much later: all that waited for its time is due."""


class Found(Struct, frozen=True):
    """What a start has found."""

    facts: Facts
    faults: list[str]
    """What is wrong whatever was answered: the store cannot be opened, its integrity is gone, nothing is delivered."""


async def start_on(state: State, directory: Path, store: str) -> Found:
    """Lay the state out in `directory`, which is made and removed, and start on the store in it."""
    lay_out(state, directory)
    try:
        return await look(directory, directory / store)
    finally:
        shutil.rmtree(directory)


async def look(directory: Path, path: Path) -> Found:
    clocks = Clocks()
    clocks.pass_time(AFTER_S)
    try:
        # Without threads: a state is opened in half the time.
        store = await open_store(
            path, msgspec.structs.replace(options(clocks, directory), start_worker=LoopWorkers()), server=True
        )
        try:
            await store.start()
            records = await facts.records_of(store)
            found = await facts.facts_of(store, records) | facts.facts_of_copies(directory)
            faults = check(path) + [one.broken for one in await verify_all(store.audit) if one.broken]
            faults += await _wrong_in_search(store, records)
            faults += await _wrong_in_deliveries(store, clocks, records)
        finally:
            await store.close()
    except Exception as error:
        return Found({}, [f"the store does not start: {type(error).__name__}: {error}"])
    return Found(found, faults)


def options(clocks: Clocks, directory: Path, *, max_events: int = MOST_EVENTS) -> SqliteOptions:
    """The master keys are in a file of the story's directory, or beside the store where that has none."""
    kept = directory / KEPT_KEYS
    return SqliteOptions(
        max_events=max_events,
        max_bytes=1 << 30,
        lease_s=30,
        search=True,
        keys=KeyFile(kept) if kept.exists() else None,
        say=lambda sentence: None,
        wall_clock=clocks.wall,
        monotonic=clocks.monotonic,
    )


async def _wrong_in_search(store: SqliteStore, records: Sequence[EventRecord]) -> list[str]:
    """What is on record is found, all of it and nothing else, when the index has caught up."""
    await _fill(store)
    wrong = []
    for query in QUERIES:
        page = await store.search.find(query, MOST_EVENTS)
        is_found = sorted((one.record.event.id, len(one.deliveries)) for one in page.found)
        matches = ((one.event.id, len(matching(one, query))) for one in records)
        if is_found != (on_record := sorted(match for match in matches if match[1])) or not page.complete:
            wrong.append(f"a search for {query} finds {is_found}, and on record are {on_record}")
    return wrong


async def _fill(store: SqliteStore) -> None:
    """As the server does: where the index was found damaged, it is made anew at the next attempt."""
    with suppress(StoreUnavailable):
        while await store.search.fill(1.0):
            pass
        return
    while await store.search.fill(1.0):
        pass


async def _wrong_in_deliveries(store: SqliteStore, clocks: Clocks, records: Sequence[EventRecord]) -> list[str]:
    """Everything that waits is given out, once, as it is on record, and can be settled; so can what is new."""
    waiting = sorted(pushes for record in records for pushes in _waiting(record))
    claimed = await _claim(store)
    given = sorted(_pushes(one.event, one.targets, one.lane, one.tries, one.round) for one in claimed)
    wrong = []
    if given != waiting:
        wrong.append(f"to be delivered are {waiting}, given out were {given}")
    new = make_event(clocks, id="the first after the start")
    if not all(await store.queue.settle([done(item) for item in claimed])):
        wrong.append("what was given out could not be settled")
    await store.queue.append([new])
    first = await _claim(store)
    await store.queue.settle([done(item) for item in first])
    if [item.event.id for item in first] != [new.id] or not await _is_done(store, new):
        wrong.append("the first event after the start was not delivered")
    await store.registry.add(registration("registered after the start", owner=new.owner), 100)
    return wrong


def _waiting(record: EventRecord) -> Iterator[str]:
    if record.state is EventState.ACCEPTED:
        yield _pushes(record.event, None, None, 0, record.round)
    for one in record.waiting:
        yield _pushes(record.event, one.targets, one.lane, one.tries, record.round)


def _pushes(event: Event, targets: Sequence[str] | None, lane: str | None, tries: int, round: int) -> str:
    """What an item will send: the event and its content, to whom, and by which ids. None: all devices of its owner."""
    ids = [f"{key} as {delivery_id(event.id, key.partition(':')[2])}" for key in targets or ()]
    what = f"{event.id} of {event.owner} ({event.message}, {facts.digest(event.body)}, until {event.expires_ms})"
    return f"{what} to {' + '.join(ids) or 'all'} on {lane}, attempt {round}.{tries}"


async def _claim(store: SqliteStore) -> list[Item]:
    lanes = dict.fromkeys(await store.schedule.due(), MOST_EVENTS)
    return await store.queue.claim(MOST_EVENTS) + (await store.schedule.claim_due(lanes) if lanes else [])


async def _is_done(store: SqliteStore, event: Event) -> bool:
    record = await store.log.record(event.id)
    return record is not None and record.state is EventState.DONE
