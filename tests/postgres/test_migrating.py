"""A store moves from SQLite to PostgreSQL: nothing is forgotten, whatever ends it in between."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.support import (
    ACCOUNT,
    EVERYTHING,
    LANE,
    OTHER_LANE,
    OTHER_OWNER,
    OWNER,
    attempt,
    done,
    keep,
    make_event,
    parked,
    registration,
)
from tests.postgres.nodes import Nodes
from tests.support.clocks import Clocks
from tests.support.postgres import MASTER_KEY, options
from tests.support.postgres_server import shared_server

from tocsin.domain.actors import Actor, ActorKind
from tocsin.domain.credentials import Check, Credential
from tocsin.domain.devices import Address
from tocsin.domain.events import Event, EventId
from tocsin.settings import Secrets, Settings
from tocsin.settings import Store as StoreSettings
from tocsin.store import migrating
from tocsin.store.acting import acting
from tocsin.store.audit_chain import Action, Change
from tocsin.store.master_keys import KeyText
from tocsin.store.moved_rows import PLAIN
from tocsin.store.ports import EventIdConflict, Store, StoreError
from tocsin.store.postgres.arriving import ArrivingStore
from tocsin.store.postgres.opening import open_store as open_postgres
from tocsin.store.records import DeadToken, KeyLimits, Learned, Result, Role, Settlement, TopicReached
from tocsin.store.sqlite import leaving
from tocsin.store.sqlite.opening import open_store as open_sqlite
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

SOMEBODY = Actor(ActorKind.SYSTEM_USER, "operator", "test")


class Source:
    """A store on SQLite with something of everything in it."""

    def __init__(self, path: Path, clocks: Clocks) -> None:
        self.path = path
        self.clocks = clocks
        self.events: list[Event] = []
        self.secrets: dict[str, str] = {}

    @asynccontextmanager
    async def opened(self, *, server: bool = True) -> AsyncIterator[SqliteStore]:
        given = SqliteOptions(
            max_events=10_000,
            max_bytes=1 << 30,
            lease_s=30,
            wall_clock=self.clocks.wall,
            monotonic=self.clocks.monotonic,
            keys=KeyText("the test's key", lambda: MASTER_KEY),
        )
        store = await open_sqlite(self.path, given, server=server)
        try:
            await store.start()
            yield store
        finally:
            await store.close()

    async def fill(self) -> None:
        async with self.opened() as store:
            with acting(SOMEBODY):
                await self._devices_and_access(store)
            await self._events(store)

    async def _events(self, store: SqliteStore) -> None:
        now_ms = self.clocks.now_ms
        self.events = [
            make_event(self.clocks, owner=(OWNER, OTHER_OWNER)[number % 2], urgent=number % 5 == 0, padding=number)
            for number in range(40)
        ]
        await store.queue.append(self.events[:30])
        items = await store.queue.claim(24)
        await store.queue.settle([done(item) for item in items[:6]])
        await store.queue.settle([parked(item, now_ms + 1000, lane=OTHER_LANE) for item in items[6:10]])
        await store.queue.settle([done(item, Result.REFUSED) for item in items[10:18]])
        # Of one event some devices have it, one ended in a dead letter, two wait on other lanes.
        mixed = [attempt("apns:a"), attempt("apns:b", Result.REFUSED)]
        split = [parked(items[18], now_ms + 5, lane=one).parked[0] for one in (LANE, OTHER_LANE)]
        await store.queue.settle([Settlement(items[18], mixed, split)])
        await store.log.discard([items[10].event.id])
        await store.log.replay([items[11].event.id, items[12].event.id], 60_000)
        again = await store.schedule.claim_due(EVERYTHING)
        replayed = [item for item in again if item.round]
        await store.queue.settle([done(replayed[0])])
        await store.queue.settle([parked(replayed[1], now_ms + 70_000)])
        self.clocks.pass_time(3600)
        await store.queue.append(self.events[30:])

    async def _devices_and_access(self, store: SqliteStore) -> None:
        registry = store.registry
        for token in ("a", "b", "c", "d"):
            await registry.add(registration(token), 100)
        await registry.add(registration("a", owner=OTHER_OWNER, provider="fcm", address=""), 100)
        devices = (await registry.devices_of([OWNER]))[OWNER]
        await registry.remove_dead([DeadToken(devices[0], ACCOUNT, "410 Unregistered")], quarantine=True)
        await registry.remove_dead([DeadToken(devices[1], ACCOUNT, "410 Unregistered")])
        await registry.delete(OWNER, "apns", devices[2].token)
        await registry.learn([Learned(devices[3], Address("application=y"), self.clocks.now_ms)])
        await registry.note_topics([TopicReached("apns", ACCOUNT, "de.cospace.app", self.clocks.now_ms)])
        project = Credential("fcm", "main", b"{}", changed_ms=store.now_ms())
        await store.credentials.put(project)
        check = Check(at_ms=7, sandbox=False, ok=True, sentence="Google accepts it")
        await store.credentials.note_check(project, check)
        self.secrets["session"], _ = await store.access.create_session(OWNER, None)
        self.secrets["unowned"], _ = await store.access.create_session(None, self.clocks.now_ms + 10**9)
        limits = KeyLimits(events=frozenset({"fax_new"}))
        self.secrets["key"], _ = await store.access.create_key(Role.PRODUCER, "fax", None, limits)
        for kind in ("replay", "discard"):
            await store.jobs.create(kind, b"{}", total=3)
        running = await store.jobs.take(["replay"])
        assert running is not None
        await store.jobs.progress(running.id, "17", done=2)
        await store.positions.set("nats EVENTS", 4711)


async def told(store: Store, source: Source) -> dict[str, Any]:
    """All that the ports of a store tell of what it holds."""
    registry, audit = store.registry, store.audit
    chains = await audit.chains()
    letters = await store.log.dead_letters(100)
    return {
        "records": [await store.log.record(event.id) for event in source.events],
        "dead letters": [(letter.event, letter.devices) for letter in letters.letters],
        "devices": sorted((await registry.page(100)).devices, key=lambda one: (one.owner, one.token)),
        "history": await registry.history(),
        "quarantine": await registry.quarantine(),
        "topics": await registry.topics(),
        "credentials": await store.credentials.of("fcm"),
        "checks": await store.credentials.checks("fcm"),
        "sessions": sorted(await store.access.sessions(), key=lambda one: one.id),
        "opened": [await store.access.session(source.secrets[name]) for name in ("session", "unowned")],
        "keys": await store.access.keys(),
        "key": await store.access.key(source.secrets["key"]),
        "pseudonyms": [await store.pseudonyms.find(owner) for owner in (OWNER, OTHER_OWNER)],
        "chains": chains,
        "audit": [await audit.read(one.chain, 0, 1000) for one in chains],
        "jobs": [(one.id, one.kind, one.arguments, one.done, one.total) for one in (await store.jobs.page(10)).jobs],
        "position": await store.positions.get("nats EVENTS"),
        "backlog": await store.queue.backlog(),
    }


@pytest.fixture
async def source(tmp_path: Path) -> Source:
    made = Source(tmp_path / "tocsin.db", Clocks())
    await made.fill()
    return made


@pytest.fixture
def target(database: str, tmp_path: Path) -> Settings:
    (tmp_path / "master.key").write_text(MASTER_KEY)
    (tmp_path / "master.key").chmod(0o600)
    url = shared_server().url(database)
    return Settings(store=StoreSettings(url=url), secrets=Secrets(key_file=tmp_path / "master.key"))


def quiet(line: str) -> None:
    """Whom nobody asks is told nothing."""


def test_every_table_and_column_on_sqlite_is_copied_or_left_out_for_a_reason(tmp_path: Path) -> None:
    async def make() -> None:
        async with Source(tmp_path / "tocsin.db", Clocks()).opened():
            pass

    asyncio.run(make())
    driver = sqlite3.connect(tmp_path / "tocsin.db")
    tables = {name for (name,) in driver.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == leaving.COPIED | leaving.NOT_COPIED.keys()
    assert leaving.COPIED.isdisjoint(leaving.NOT_COPIED)
    copied: dict[str, set[str]] = {plain.table: {name for name, _ in plain.columns} for plain in PLAIN}
    copied |= {name: set(re.findall(r"\w+", getattr(leaving, f"_{name.upper()}"))) for name in ("event", "parked")}
    for table in sorted(leaving.COPIED):
        columns = {row[1] for row in driver.execute(f"PRAGMA table_info({table})")}
        left_out = {one.partition(".")[2] for one in leaving.LEFT_OUT if one.startswith(f"{table}.")}
        assert columns - copied[table] <= left_out, table
        assert left_out <= columns, table
    driver.close()


async def test_a_store_that_has_moved_tells_the_same_through_every_port(
    source: Source, target: Settings, nodes: Nodes
) -> None:
    before_bytes = source.path.read_bytes()
    async with source.opened() as store:
        before = await told(store, source)
    lines: list[str] = []
    assert await migrating.migrate(source.path, target, lines.append)
    migrating.set_done(source.path)
    assert [line for line in lines if "event" in line and "the same in both" in line]
    after_store = await open_postgres(options(nodes.url, source.clocks), server=True)
    try:
        await after_store.start()
        await after_store.stop_duties()
        after = await told(after_store, source)
        assert set(after) == set(before)
        for what, before_it in before.items():
            assert after[what] == before_it, what
        # What waits is claimed in its order, urgent and other; a repeat of a producer is known as one.
        untried = [event for event, record in zip(source.events, before["records"], strict=True) if record.state == 0]
        items = await after_store.queue.claim(100)
        assert {item.event.id for item in items} == {event.id for event in untried}
        for owner in (OWNER, OTHER_OWNER):
            for urgent in (True, False):
                own = [item.event for item in items if (item.event.owner, item.event.urgent) == (owner, urgent)]
                assert own == [event for event in untried if (event.owner, event.urgent) == (owner, urgent)]
        await after_store.queue.append(source.events)
        assert await after_store.queue.claim(100) == [], "all of them were known"
        other = Event(source.events[0].id, OWNER, "fax_new", 0, 10**15, b"{}")
        with pytest.raises(EventIdConflict):
            await after_store.queue.append([other])
        # And it goes on: what waited in SQLite is settled here, and the audit log is extended.
        await after_store.queue.settle([done(item) for item in items])
        source.clocks.pass_time(100)
        due = await after_store.schedule.claim_due(EVERYTHING)
        await after_store.queue.settle([done(item) for item in due])
        assert (await after_store.queue.backlog()).events == 0
        # Days go by: what is settled is forgotten, dead letters and what waits are kept.
        letters = await after_store.log.dead_letters(100)
        assert letters.letters
        source.clocks.pass_time(3 * 24 * 3600)
        for _ in range(10):
            await after_store.prune(keep(24 * 3600, 24 * 3600, 90 * 24 * 3600))
        assert await after_store.log.dead_letters(100) == letters
        assert await after_store.log.record(source.events[0].id) is None
        running = await after_store.jobs.take(["replay"])
        assert running is not None
        assert running.position == "", "its place was one of the file's"
        with acting(SOMEBODY):
            await after_store.audit.note(Change(Action.STORE_MIGRATE))
    finally:
        await after_store.close()
    assert not await migrating.migrate(source.path, target, quiet), "it has ended already"
    with pytest.raises(StoreError, match="was moved to postgresql://"):
        async with source.opened():
            pass
    with pytest.raises(StoreError, match="was moved to postgresql://"):
        async with source.opened(server=False):
            pass
    assert migrating.take_back(source.path)
    assert source.path.read_bytes() != before_bytes, "the mark, and what opening writes"
    async with source.opened() as store:
        assert await told(store, source) == before, "the source is as it was"


class Killed(BaseException):
    """The process ended here."""


async def test_a_move_that_is_killed_at_any_step_goes_on_where_it_was(
    source: Source, target: Settings, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with source.opened() as store:
        before = await told(store, source)
    monkeypatch.setattr(migrating, "_STEP_ROWS", 7)
    write, finish, steps, killed_at = ArrivingStore.write, ArrivingStore.finish, 0, 0

    async def killed_write(self: ArrivingStore, part: str, rows: Any, reached: int) -> None:
        nonlocal steps
        steps += 1
        if steps == killed_at:
            raise Killed
        await write(self, part, rows, reached)
        if steps == killed_at - 1 and killed_at % 2:
            raise Killed

    async def killed_finish(self: ArrivingStore, move: int) -> None:
        await finish(self, move)
        if killed_at < 100:
            raise Killed

    monkeypatch.setattr(ArrivingStore, "write", killed_write)
    monkeypatch.setattr(ArrivingStore, "finish", killed_finish)
    kills = 0
    while True:
        killed_at, steps = kills % 4 + 1, 0
        try:
            assert await migrating.migrate(source.path, target, quiet)
            break
        except Killed:
            kills += 1
        with pytest.raises(StoreError, match="is being moved to"):
            async with source.opened():
                pass
        if kills == 1:
            with pytest.raises(StoreError, match="a store is being moved to this database"):
                await open_postgres(options(nodes.url, source.clocks))
    assert kills > 5
    migrating.set_done(source.path)
    store_after = await open_postgres(options(nodes.url, source.clocks), server=True)
    try:
        await store_after.start()
        await store_after.stop_duties()
        assert await told(store_after, source) == before
    finally:
        await store_after.close()


async def test_a_row_that_is_not_as_it_was_is_found_before_anybody_uses_the_target(
    source: Source, target: Settings, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = ArrivingStore.rows

    async def changed(self: ArrivingStore, part: str) -> AsyncIterator[list[Any]]:
        if part == "device":
            await nodes.execute("UPDATE device SET generation = generation + 1 WHERE token = 'd'")
        async for rows in finish(self, part):
            yield rows

    monkeypatch.setattr(ArrivingStore, "rows", changed)
    with pytest.raises(StoreError, match="device: is not what the source has"):
        await migrating.migrate(source.path, target, quiet)
    with pytest.raises(StoreError, match="is being moved"):
        await open_postgres(options(nodes.url, source.clocks))


async def test_a_store_does_not_move_while_a_server_uses_it_or_to_a_database_that_is_used_or_not_empty(
    source: Source, target: Settings, nodes: Nodes, tmp_path: Path
) -> None:
    async with source.opened():
        with pytest.raises(StoreError, match="a tocsin server is using it"):
            await migrating.migrate(source.path, target, quiet)
    serving = await nodes.open(duties=True)
    with pytest.raises(StoreError, match="a tocsin server is using this database"):
        await migrating.migrate(source.path, target, quiet)
    await serving.queue.append([make_event(source.clocks, id=EventId("00000000-0000-4000-8000-00000000abcd"))])
    await serving.close()
    with pytest.raises(StoreError, match=r"is not empty \(there are rows in .*event"):
        await migrating.migrate(source.path, target, quiet)
    (tmp_path / "other.key").write_text("b" * 43 + "=")
    (tmp_path / "other.key").chmod(0o600)
    wrong = target.model_copy(update={"secrets": Secrets(key_file=tmp_path / "other.key")})
    with pytest.raises(StoreError, match="master key"):
        await migrating.migrate(source.path, wrong, quiet)
    with pytest.raises(StoreError, match="there is no store"):
        await migrating.migrate(tmp_path / "missing.db", target, quiet)
    async with source.opened():
        """None of these has marked it."""
