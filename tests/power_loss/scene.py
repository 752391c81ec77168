"""Where a story takes place, and what the stories do in common: each act is told before and after."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tests.contract.support import LANE, done, make_event
from tests.power_loss import facts
from tests.power_loss.judge import options
from tests.power_loss.told import Facts, Told
from tests.support.clocks import Clocks
from tocsin.domain.actors import Actor, ActorKind
from tocsin.domain.events import Event
from tocsin.store.records import Item, Settlement
from tocsin.store.sqlite.opening import open_store
from tocsin.store.sqlite.store import SqliteStore

STORE: Final = "tocsin.db"
STORES: Final = {"first-start": "var/lib/tocsin.db", "restore-first": "var/lib/tocsin.db"}
"""Where the store is of those stories that have it elsewhere than others."""
MOST_EVENTS: Final = 40
OPERATOR: Final = Actor(ActorKind.KEY, "key_0123456789ab", "192.0.2.7")
"""Whoever makes the changes that the audit log tells of."""
ADDRESS: Final = "application=x"


class Scene(Struct):
    """Where a story takes place."""

    told: Told
    clocks: Clocks
    directory: Path
    """Its files; what lies elsewhere is not recorded."""
    elsewhere: Path
    name: str
    rounds: int
    """How often the longest stories go over the same ground."""

    @property
    def path(self) -> Path:
        return self.directory / STORES.get(self.name, STORE)


@asynccontextmanager
async def opened(scene: Scene, path: Path | None = None) -> AsyncIterator[SqliteStore]:
    """The server's store, started. It looks for changes of other processes only where it is asked to."""
    store = await open_store(
        path or scene.path, options(scene.clocks, scene.directory, max_events=MOST_EVENTS), server=True
    )
    try:
        await store.start()
        assert store._noticing is not None
        store._noticing.cancel()
        yield store
    finally:
        await store.close()


async def begin_with_empty_store(scene: Scene) -> None:
    """What cuts during its creation leave, `first_start` shows."""
    async with opened(scene):
        pass
    scene.told.begins(scene.name, {})


async def append(scene: Scene, store: SqliteStore, events: Sequence[Event]) -> None:
    with scene.told.action(become(events, ACCEPTED)):
        await store.queue.append(events)


async def settle(scene: Scene, store: SqliteStore, settlements: Sequence[Settlement], becomes: str) -> None:
    """Settlements that all leave their events as `becomes` says."""
    with scene.told.action(become([one.item.event for one in settlements], becomes)):
        assert all(await store.queue.settle(settlements))


def become(events: Iterable[Event], becomes: str) -> Facts:
    """That each of these is as it says, with its own content."""
    return {facts.event(event.id): becomes.format(content=facts.digest(event.body)) for event in events}


def events_of(scene: Scene, number: int, *, padding: int = 100) -> list[Event]:
    """Each with a content that no other has."""
    made = (make_event(scene.clocks, padding=padding * (index % 4), urgent=index % 5 == 0) for index in range(number))
    return [replace(event, body=event.body[:-1] + f',"from":"{event.id}"}}'.encode()) for event in made]


def finished(items: Iterable[Item]) -> list[Settlement]:
    return [done(item) for item in items]


# How an event is (`facts.event`), with the digest of its content, which is dropped once all is delivered.
ACCEPTED: Final = "accepted; {content}"
DONE: Final = "done; apns:a delivered 0.1"
REFUSED: Final = "dead; {content}; apns:a refused 0.1"
REPLAYED: Final = f"delivering; {{content}}; apns:a refused 0.1; apns:a waits for {LANE}"
DISCARDED: Final = "done; apns:a refused 0.1"
RETRIED: Final = f"delivering; {{content}}; apns:a retry 0.1; apns:a waits for {LANE}"
DONE_AT_LAST: Final = "done; apns:a retry 0.1; apns:a delivered 0.2"
