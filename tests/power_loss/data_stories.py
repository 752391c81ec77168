"""Stories of events, of devices, and of who may call: everything that a running server answers for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from tests.contract.support import (
    ACCOUNT,
    LANE,
    OTHER_OWNER,
    OWNER,
    attempt,
    device_of,
    done,
    make_event,
    parked,
    registration,
)
from tests.power_loss import facts
from tests.power_loss.scene import (
    ACCEPTED,
    ADDRESS,
    DISCARDED,
    DONE,
    DONE_AT_LAST,
    MOST_EVENTS,
    OPERATOR,
    REFUSED,
    REPLAYED,
    RETRIED,
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
from tocsin.domain.credentials import Credential
from tocsin.domain.devices import DeviceToken
from tocsin.domain.events import Event, UserId
from tocsin.store.acting import acting
from tocsin.store.master_keys import beside
from tocsin.store.ports import BacklogFull, EventIdConflict
from tocsin.store.records import DeadToken, Result, Role, Settlement
from tocsin.store.sqlite.store import SqliteStore

# -- events ------------------------------------------------------------------------------------------------------------


async def queue(scene: Scene) -> None:
    """Events are taken and settled at once, in groups, with checkpoints in between; some are refused."""
    await begin_with_empty_store(scene)
    async with opened(scene) as store:
        await append(scene, store, events_of(scene, 4))
        for number in range(scene.rounds):
            items = await store.queue.claim(6)
            await asyncio.gather(
                *(append(scene, store, events_of(scene, count)) for count in (1, 2, 3)),
                settle(scene, store, finished(items[:3]), DONE),
                settle(scene, store, [parked(item, scene.clocks.now_ms + 1000) for item in items[3:5]], RETRIED),
                settle(scene, store, [done(item, Result.REFUSED) for item in items[5:]], REFUSED),
            )
            scene.clocks.pass_time(2)
            await _finish_what_waits(scene, store)
            if number % 2:
                await _search_catches_up(store, made_durable=number % 4 == 3)
        await _refused(scene, store)
        await _dead_letters(scene, store)
    async with opened(scene) as store:
        await append(scene, store, events_of(scene, 2))


async def _search_catches_up(store: SqliteStore, *, made_durable: bool) -> None:
    """The index is filled without a sync; where it is made durable, the store forgets what led it there."""
    while await store.search.fill(1.0):
        pass
    if made_durable:
        await store.search.prune()


async def _finish_what_waits(scene: Scene, store: SqliteStore) -> None:
    due = await store.schedule.claim_due({LANE: 100})
    again = [Settlement(item, [attempt("apns:a", number=2)], []) for item in due]
    if again:
        await settle(scene, store, again, DONE_AT_LAST)


async def _refused(scene: Scene, store: SqliteStore) -> None:
    """A batch with an id that another event has, and one that does not fit: with others in the same group."""
    [used] = events_of(scene, 1)
    await append(scene, store, [used])
    other = make_event(scene.clocks, id=used.id, padding=777)
    backlog = await store.queue.backlog()
    await asyncio.gather(
        _is_refused(scene, store, [*events_of(scene, 2), other], EventIdConflict),
        append(scene, store, events_of(scene, 1)),
        _is_refused(scene, store, events_of(scene, MOST_EVENTS - backlog.events), BacklogFull),
    )


async def _is_refused(scene: Scene, store: SqliteStore, events: Sequence[Event], why: type[Exception]) -> None:
    known = await asyncio.gather(*(store.log.record(event.id) for event in events))
    new = [event for event, record in zip(events, known, strict=True) if record is None]
    with scene.told.action(become(new, ACCEPTED), refused_by=why):
        await store.queue.append(events)


async def _dead_letters(scene: Scene, store: SqliteStore) -> None:
    letters = (await store.log.dead_letters(10)).letters
    assert len(letters) > 1
    first, second = (letter.event for letter in letters[:2])
    with scene.told.action(become([first], DISCARDED)):
        assert await store.log.discard([first.id]) == 1
    with scene.told.action(become([second], REPLAYED)):
        assert await store.log.replay([second.id], 60_000) == 1


# -- devices -----------------------------------------------------------------------------------------------------------


async def registry(scene: Scene) -> None:
    """Devices are registered, deleted, declared dead, quarantined, released and restored."""
    await begin_with_empty_store(scene)
    async with opened(scene) as store:
        for owner in (OWNER, OTHER_OWNER):
            await asyncio.gather(*(_register(scene, store, token, owner) for token in "abcdefgh"))
        for count, token in enumerate("ab", 1):
            with (
                acting(OPERATOR),
                scene.told.action(
                    {
                        facts.device(OWNER, f"apns:{token}"): None,
                        facts.removed(OWNER, f"apns:{token}"): "deleted by its user",
                        **_audited("device.delete", "apns:…", count),
                    }
                ),
            ):
                assert await store.registry.delete(OWNER, "apns", DeviceToken(token))
        await _dead(scene, store, "c", quarantine=False)
        for token in "def":
            await _dead(scene, store, token, quarantine=True)
        with acting(OPERATOR), scene.told.action(_back("c") | _audited("device.restore", "apns:…")):
            assert await store.registry.restore("apns", DeviceToken("c"), 100) == 1
        back = {name: value for token in "def" for name, value in _back(token).items()}
        back |= _audited("quarantine.release", f"apns:{ACCOUNT}")
        with acting(OPERATOR), scene.told.action(back, atomic=False):
            assert await store.registry.release_quarantine(ACCOUNT, 100) == 3
        scene.clocks.pass_time(1)
        await asyncio.gather(*(_register(scene, store, token, OWNER, "application=y") for token in "abg"))
    async with opened(scene) as store:
        await _register(scene, store, "after", OWNER)


async def _register(scene: Scene, store: SqliteStore, token: str, owner: UserId, address: str = ADDRESS) -> None:
    with scene.told.action({facts.device(owner, f"apns:{token}"): address}):
        await store.registry.add(registration(token, owner=owner, address=address), 100)


async def _dead(scene: Scene, store: SqliteStore, token: str, *, quarantine: bool) -> None:
    device = await device_of(store, token)
    reason = "Unregistered, quarantined" if quarantine else "Unregistered"
    gone = {facts.device(OWNER, device.key): None, facts.removed(OWNER, device.key): reason}
    with scene.told.action(gone):
        await store.registry.remove_dead([DeadToken(device, ACCOUNT, "Unregistered")], quarantine=quarantine)


def _back(token: str) -> Facts:
    return {
        facts.device(OWNER, f"apns:{token}"): ADDRESS,
        facts.removed(OWNER, f"apns:{token}"): None,
    }


def _audited(action: str, what: str, count: int = 1) -> Facts:
    return {facts.audited(action, what): str(count)}


# -- who may call, and what providers are reached with -----------------------------------------------------------------


async def access(scene: Scene) -> None:
    """Keys and sessions are made and revoked, credentials put, replaced and removed, jobs run."""
    await begin_with_empty_store(scene)
    async with opened(scene) as store:
        keys = await asyncio.gather(*(_key(scene, store, name) for name in ("one", "two", "three")))
        with scene.told.action({facts.session(OWNER): "open"}):
            _, session = await store.access.create_session(OWNER, None)
        with scene.told.action({facts.session(OTHER_OWNER): "open"}):
            await store.access.create_session(OTHER_OWNER, None)
        for provider, account, content in (("fcm", "main", b"1"), ("fcm", "main", b"2" * 3000), ("apns", "a", b"3")):
            await _credential(scene, store, provider, account, content)
        with acting(OPERATOR), scene.told.action({facts.key("two"): None, **_audited("key.revoke", keys[1])}):
            assert await store.access.revoke_key(keys[1])
        ended = {facts.session(OWNER): None, **_audited("session.revoke", session.id)}
        with acting(OPERATOR), scene.told.action(ended):
            assert await store.access.revoke_session(session.id)
        gone = {facts.credential("fcm", "main"): None, **_audited("credential.remove", "fcm:main")}
        with acting(OPERATOR), scene.told.action(gone):
            assert await store.credentials.remove("fcm", "main")
        await _credential(scene, store, "fcm", "other", b"4")
        await _jobs(scene, store)
    async with opened(scene) as store:
        await _key(scene, store, "after")


async def rekey(scene: Scene) -> None:
    """Credentials are brought under a new master key while a server runs; the key is a file beside the store."""
    await begin_with_empty_store(scene)
    async with opened(scene) as store:
        for account in ("main", "other"):
            await _credential(scene, store, "fcm", account, account.encode() * 500)
        for count in (1, 2):
            beside(scene.path).add(os.urandom)
            await _credential(scene, store, "fcm", "between", os.urandom(8))
            with acting(OPERATOR), scene.told.action(_audited("store.rekey", "", count)):
                assert await store.credentials.rewrap() > 1
            await _credential(scene, store, "fcm", "main", os.urandom(8))
    async with opened(scene) as store:
        await _credential(scene, store, "apns", "after", b"")


async def _key(scene: Scene, store: SqliteStore, name: str) -> str:
    with acting(OPERATOR), scene.told.action({facts.key(name): "admin", **_audited("key.create", name)}):
        _, key = await store.access.create_key(Role.ADMIN, name, None)
    return key.id


async def _credential(scene: Scene, store: SqliteStore, provider: str, account: str, content: bytes) -> None:
    with scene.told.action({facts.credential(provider, account): facts.digest(content)}):
        await store.credentials.put(Credential(provider, account, content))


async def _jobs(scene: Scene, store: SqliteStore) -> None:
    """A job that was running waits again after a start."""
    for kind in ("first", "second"):
        with scene.told.action({facts.job(kind): "waiting  0"}):
            job = await store.jobs.create(kind, b"{}")
        with scene.told.action({}):
            assert await store.jobs.take([kind]) is not None
        with scene.told.action({facts.job(kind): "waiting here 2"}):
            assert await store.jobs.progress(job.id, "here", done=2)
    with scene.told.action({facts.job("second"): "done here 2"}):
        await store.jobs.finish(job.id)
