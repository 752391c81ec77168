"""Stories of the file: how a store begins, is migrated, made smaller, copied and restored."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress

from tests.contract.support import DAY_MS, done, keep, parked
from tests.power_loss import facts
from tests.power_loss.facts import facts_of
from tests.power_loss.judge import KEPT_KEYS
from tests.power_loss.scene import (
    ACCEPTED,
    DONE,
    OPERATOR,
    STORE,
    Scene,
    append,
    become,
    begin_with_empty_store,
    events_of,
    finished,
    opened,
    settle,
)
from tests.power_loss.told import Facts
from tests.sqlite.old_stores import made_by
from tocsin.domain.credentials import Credential
from tocsin.store.audit_chain import MAIN
from tocsin.store.content_keys import FORGOTTEN_WITHIN_MS
from tocsin.store.master_keys import KeyFile, beside
from tocsin.store.ports import StoreUnavailable
from tocsin.store.records import Item, Result
from tocsin.store.sqlite import maintenance
from tocsin.store.sqlite.store import SqliteStore


async def first_start(scene: Scene) -> None:
    """Nothing is there, not even the directory."""
    scene.told.begins(scene.name, {})
    for _ in range(2):
        async with opened(scene) as store:
            await append(scene, store, events_of(scene, 2))
            await append(scene, store, events_of(scene, 1))


async def migration(scene: Scene, version: str, *, killed: bool = False) -> None:
    """A store of an earlier version is brought to the current schema at its first start. Where its last server was
    killed, what that has done stands in the log."""
    undisturbed = scene.elsewhere / STORE

    def copy() -> None:
        for suffix in ("", "-wal") if killed else ("",):
            shutil.copy(f"{undisturbed}{suffix}", f"{scene.path}{suffix}")

    made_by(version, undisturbed, before_close=copy if killed else None)
    if not killed:
        copy()
    async with opened(scene, undisturbed) as store:
        known = await facts_of(store)
    scene.told.begins(scene.name, known)
    async with opened(scene) as store:
        await append(scene, store, events_of(scene, 1))


async def vacuum(scene: Scene) -> None:
    """What is old is forgotten, and its room given back to the file system in steps, while events are taken."""
    async with opened(scene) as store:
        for _ in range(3):
            await store.queue.append(events_of(scene, 20, padding=3000))
            await store.queue.settle(finished(await store.queue.claim(100)))
        await store.queue.append(events_of(scene, 1))
        known = await facts_of(store)
    scene.told.begins(scene.name, known)
    forgotten: Facts = {name: None for name, value in known.items() if value == DONE}
    async with opened(scene) as store:
        scene.clocks.pass_time(3 * DAY_MS / 1000)
        store._housekeeping._vacuum_pages = 10
        with scene.told.action(forgotten, atomic=False):
            # The clock stands: it goes on until there is nothing left to do.
            pruned, *_ = await asyncio.gather(
                store.prune(keep(0, 0)), *(append(scene, store, events_of(scene, 1)) for _ in range(3))
            )
            assert not pruned
        await append(scene, store, events_of(scene, 3))


async def hours(scene: Scene) -> None:
    """The keys of contents are dropped, while events go on that were encrypted by them."""
    async with opened(scene) as store:
        await store.queue.append(events_of(scene, 12, padding=1000))
        items = await store.queue.claim(9)
        await store.queue.settle([parked(item, scene.clocks.now_ms + 1000) for item in items[:4]])
        await store.queue.settle([done(item, Result.REFUSED) for item in items[4:7]])
        await store.queue.release(items[7:])
        scene.told.begins(scene.name, await facts_of(store))
        for _ in range(2):
            scene.clocks.pass_time(FORGOTTEN_WITHIN_MS / 1000)
            await asyncio.gather(
                store.prune(keep(DAY_MS, DAY_MS)), *(append(scene, store, events_of(scene, 2)) for _ in range(3))
            )
            await settle(scene, store, finished(await store.queue.claim(3)), DONE)
    async with opened(scene) as store:
        await append(scene, store, events_of(scene, 1))


async def backup(scene: Scene) -> None:
    """A store is copied while events are taken and settled."""
    async with opened(scene) as store:
        first = events_of(scene, 8, padding=2000)
        await store.queue.append(first)
        scene.told.begins(scene.name, await facts_of(store))
        for name in ("one.copy", "two.copy"):
            before = [id.removeprefix("event ") for id in await facts_of(store)]
            meanwhile = [events_of(scene, 2) for _ in range(3)]
            scene.told.possible({facts.in_copy(name, event.id): "there" for events in meanwhile for event in events})
            whole: Facts = {facts.copy(name): "whole"} | {facts.in_copy(name, id): "there" for id in before}
            await asyncio.gather(_copied(scene, name, whole), *(append(scene, store, events) for events in meanwhile))
            await settle(scene, store, finished(await store.queue.claim(4)), DONE)


async def _copied(scene: Scene, name: str, whole: Facts) -> None:
    with scene.told.action(whole):
        await asyncio.to_thread(maintenance.backup, scene.path, scene.directory / name)


async def restore(scene: Scene) -> None:
    """A store that was killed is replaced by a copy of another one with the same master key; then a server starts."""
    other = scene.elsewhere / "other.db"
    async with opened(scene, other) as store:
        await store.queue.append(events_of(scene, 5, padding=1000))
        for _ in range(2):
            await store.queue.settle(finished(await store.queue.claim(2)))
        await store.credentials.put(Credential("fcm", "restored", b"{}"))
        restored = await facts_of(store)
        await asyncio.to_thread(maintenance.backup, other, scene.directory / "backup.db")
    shutil.copy(beside(other).path, beside(scene.elsewhere / STORE).path)
    known = await _killed(scene)
    scene.told.begins(scene.name, known)
    copy = scene.directory / "backup.db"
    told = {facts.audited("store.restore", str(copy)): "1"}
    with scene.told.action(dict.fromkeys(known) | restored | told):
        await asyncio.to_thread(maintenance.restore, scene.path, copy, restored_by=(OPERATOR, MAIN))
    async with opened(scene) as store:
        await append(scene, store, events_of(scene, 2))


async def _killed(scene: Scene) -> Facts:
    """Leave a store as a server does that is killed, with all that it has done in the log; returns what is in it."""
    killed = scene.elsewhere / STORE
    async with opened(scene, killed) as store:
        await store.queue.append(events_of(scene, 10, padding=3000))
        await store.queue.settle(finished(await store.queue.claim(1)))
        await store.credentials.put(Credential("fcm", "main", b"{}"))
        while await store.search.fill(1.0):
            pass
        for suffix in ("", "-wal", ".key", "-search", "-search-wal"):
            shutil.copy(f"{killed}{suffix}", f"{scene.path}{suffix}")
        return await facts_of(store)


async def second_cut(scene: Scene) -> None:
    """The power goes again while a server starts on what the first cut has left."""
    scene.told.begins(scene.name, await _killed(scene))
    async with opened(scene) as store:
        await append(scene, store, events_of(scene, 2))


async def failed_sync(scene: Scene) -> None:
    """A sync of the log fails once: what was to be committed by it is refused, and others are taken after it."""
    await begin_with_empty_store(scene)
    async with opened(scene) as store:
        await append(scene, store, events_of(scene, 2))
        for padding in (100, 5000):
            scene.told.fail_syncs(1)
            events = events_of(scene, 4, padding=padding)
            with scene.told.action(become(events, ACCEPTED), refused_by=StoreUnavailable):
                await store.queue.append(events)
            await append(scene, store, events_of(scene, 2))
        await _any_sync_fails(scene, store)
        await _index_is_not_synced(scene, store)


async def _index_is_not_synced(scene: Scene, store: SqliteStore) -> None:
    """What has gone to the index in several commits is synced by nobody: the sync that is to do so fails."""
    for _ in range(2):
        for _ in range(3):
            await append(scene, store, events_of(scene, 2))
            await settle(scene, store, finished(await _claimed(store)), DONE)
            await store.search.fill(1.0)
        scene.told.fail_syncs(1)
        with suppress(StoreUnavailable):
            await store.search.prune()
        assert (await store.search.state()).rebuilding, "what has not been synced may be gone, and is not made again"
        await store.search.fill(1.0)
        await store.search.prune()


async def _any_sync_fails(scene: Scene, store: SqliteStore) -> None:
    """Each kind of sync fails once: of a commit, of the log before a checkpoint and of the file after it, of a new log,
    and of the search's index. Commits that are answered must not depend on it.
    """
    for after in range(min(scene.rounds, 8)):  # what is in doubt makes many states
        scene.told.fail_syncs(1, after=after % 6)
        while scene.told.syncs_to_fail:
            events = events_of(scene, 3, padding=4000)
            with scene.told.action(become(events, ACCEPTED), refused_by=StoreUnavailable, may_be_answered=True):
                await store.queue.append(events)
            items = await _claimed(store)
            told = become([item.event for item in items], DONE)
            with scene.told.action(told, refused_by=StoreUnavailable, may_be_answered=True):
                await store.queue.settle(finished(items))
            with suppress(StoreUnavailable):
                await store.search.fill(1.0)
                await store.search.prune()
        await append(scene, store, events_of(scene, 1))


async def _claimed(store: SqliteStore) -> list[Item]:
    try:
        return await store.queue.claim(10)
    except StoreUnavailable:
        return []


async def restore_first(scene: Scene) -> None:
    """A copy is restored where no store was, in a directory that is not there either; its master key is elsewhere."""
    KeyFile(scene.directory / KEPT_KEYS).add(os.urandom)
    other = scene.elsewhere / "other.db"
    async with opened(scene, other) as store:
        await store.queue.append(events_of(scene, 3))
        restored = await facts_of(store)
        await asyncio.to_thread(maintenance.backup, other, scene.directory / "backup.db")
    scene.told.begins(scene.name, {})
    with scene.told.action(restored):
        await asyncio.to_thread(maintenance.restore, scene.path, scene.directory / "backup.db")
