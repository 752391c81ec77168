"""The audit log: who has changed what, in the transaction of the change, in a chain that shows where it was changed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.contract.factories import Stores
from tests.contract.support import (
    ACCOUNT,
    DAY_MS,
    LANE,
    OTHER_OWNER,
    OWNER,
    TOKEN,
    done,
    keep,
    make_event,
    register,
    registration,
)
from tests.support.clocks import Clocks

from tocsin.domain.actors import COMMAND_LINE, Actor, ActorKind
from tocsin.domain.credentials import Credential
from tocsin.domain.devices import DeviceToken
from tocsin.store.acting import acting
from tocsin.store.audit_chain import Action, ChainCheck, Change, Entry, Recorded, read
from tocsin.store.ports import Store, UnknownCursor
from tocsin.store.records import Cursor, DeadToken, Result, Retention, Role

OPERATOR = Actor(ActorKind.KEY, "key_0123456789ab", "192.0.2.7")
COMMAND = Actor(ActorKind.SYSTEM_USER, "anna", COMMAND_LINE)
LONG_TOKEN = DeviceToken("ab" * 32)


async def entries(store: Store) -> list[Entry]:
    """All entries, oldest first."""
    found: list[Recorded] = []
    start: Cursor | None = None
    while True:
        page = await store.audit.page(3, start=start)
        found += page.entries
        if page.next is None:
            return [read(one) for one in reversed(found)]
        start = page.next


async def told(store: Store) -> list[tuple[str, str]]:
    return [(entry.action, entry.subject) for entry in await entries(store)]


async def broken(store: Store) -> list[str]:
    """What is wrong with the chains."""
    wrong = []
    for ends in await store.audit.chains():
        check = ChainCheck(ends)
        while some := await store.audit.read(ends.chain, check.next_number - 1, 2):
            for one in some:
                check.add(one)
        check.end()
        wrong += [check.broken] if check.broken else []
    return wrong


async def test_an_entry_says_who_did_what_to_what_when_and_from_where(store: Store, clocks: Clocks) -> None:
    clocks.pass_time(5)
    with acting(OPERATOR):
        _, key = await store.access.create_key(Role.PRODUCER, "fax backend", clocks.now_ms + DAY_MS)
    [entry] = await entries(store)
    assert (entry.actor, entry.at_ms, entry.number) == (OPERATOR, clocks.now_ms, 1)
    assert (entry.action, entry.subject) == ("key.create", key.id)
    assert (entry.details["role"], entry.details["name"]) == ("producer", "fax backend")


async def test_what_nobody_in_particular_does_has_no_entry(store: Store) -> None:
    await store.access.create_key(Role.ADMIN, "a", None)
    await register(store, "a")
    await store.registry.delete(OWNER, "apns", TOKEN)
    assert await entries(store) == []
    assert await store.audit.chains() == []


async def test_every_change_of_keys_sessions_and_credentials_has_its_entry(store: Store) -> None:
    with acting(OPERATOR):
        _, key = await store.access.create_key(Role.ADMIN, "a", None)
        secret, session = await store.access.create_session(OWNER, None)
        await store.credentials.put(Credential("apns", ACCOUNT, b"SECRET"))
        await store.access.revoke_key(key.id)
        await store.access.revoke_session(secret)
        await store.credentials.rewrap()
        await store.credentials.remove("apns", ACCOUNT)
    assert await told(store) == [
        ("key.create", key.id),
        ("session.create", session.id),
        ("credential.put", f"apns:{ACCOUNT}"),
        ("key.revoke", key.id),
        ("session.revoke", session.id),
        ("store.rekey", ""),
        ("credential.remove", f"apns:{ACCOUNT}"),
    ]


async def test_every_change_of_devices_has_its_entry_with_the_token_shortened(store: Store, clocks: Clocks) -> None:
    with acting(OPERATOR):
        await store.registry.add(registration(LONG_TOKEN), 100)
        assert await store.registry.delete(OWNER, "apns", LONG_TOKEN, by_operator=True)
        assert await store.registry.restore("apns", LONG_TOKEN, 100) == 1
    found = await entries(store)
    assert [(one.action, one.subject) for one in found] == [
        ("device.add", "apns:abababab…"),
        ("device.delete", "apns:abababab…"),
        ("device.restore", "apns:abababab…"),
    ]
    assert found[2].details == {"registrations": 1}


async def test_devices_that_are_registered_together_have_one_entry(store: Store) -> None:
    with acting(COMMAND):
        await store.registry.add_many([], 100)
        await store.registry.add_many([registration(token) for token in "abc"], 100)
        await store.registry.add_many([registration(LONG_TOKEN)], 100)
    several, one = await entries(store)
    assert (several.action, several.subject, several.details) == ("device.add", "", {"registrations": 3})
    assert one.subject == "apns:abababab…"


@pytest.mark.parametrize("end", ["release", "purge"])
async def test_the_end_of_a_quarantine_has_its_entry(store: Store, end: str) -> None:
    for token in "abc":
        device = await register(store, token)
        await store.registry.remove_dead([DeadToken(device, ACCOUNT, "Unregistered")], quarantine=True)
    with acting(OPERATOR):
        if end == "release":
            await store.registry.release_quarantine(ACCOUNT, 100)
        else:
            await store.registry.purge_quarantine(ACCOUNT)
    [entry] = await entries(store)
    assert (entry.action, entry.subject) == (f"quarantine.{end}", f"apns:{ACCOUNT}")
    assert entry.details == {"registrations": 3}


async def test_dead_letters_are_named_that_were_replayed_or_discarded(store: Store, clocks: Clocks) -> None:
    events = [make_event(clocks) for _ in range(3)]
    await store.queue.append(events)
    await store.queue.settle([done(item, Result.REFUSED) for item in await store.queue.claim(10)])
    with acting(OPERATOR):
        await store.log.replay([events[0].id, make_event(clocks).id], 60_000)
        await store.log.discard(None)
    replayed, discarded = await entries(store)
    assert (replayed.action, replayed.details) == ("deadletter.replay", {"events": [events[0].id]})
    assert discarded.action == "deadletter.discard"
    assert sorted(discarded.details["events"]) == sorted([events[1].id, events[2].id])


async def test_jobs_have_entries_when_they_are_created_and_stopped(store: Store) -> None:
    with acting(OPERATOR):
        job = await store.jobs.create("replay", b"{}")
        assert await store.jobs.stop(job.id)
        assert not await store.jobs.stop(job.id)
    assert await told(store) == [("job.create", job.id), ("job.stop", job.id)]


async def test_what_changes_nothing_has_no_entry(store: Store, clocks: Clocks) -> None:
    with acting(OPERATOR):
        await store.access.revoke_key("key_ffffffffffff")
        await store.access.revoke_session("nothing")
        await store.credentials.remove("apns", ACCOUNT)
        await store.registry.delete(OWNER, "apns", TOKEN)
        await store.registry.restore("apns", TOKEN, 100)
        await store.registry.purge_quarantine(ACCOUNT)
        await store.log.discard([make_event(clocks).id])
        await store.jobs.stop("job_unknown")
    assert await entries(store) == []


async def test_no_secret_and_no_whole_token_and_no_user_is_in_an_entry(store: Store) -> None:
    with acting(OPERATOR):
        secret, _ = await store.access.create_session(OWNER, None)
        key_secret, _ = await store.access.create_key(Role.ADMIN, "a", None)
        await store.credentials.put(Credential("apns", ACCOUNT, b"CONTENT-OF-A-KEY"))
        await store.registry.add(registration(LONG_TOKEN), 100)
        await store.registry.delete(OWNER, "apns", LONG_TOKEN, by_operator=True)
        await store.access.revoke_session(secret)
        await store.access.revoke_key(key_secret)
    page = await store.audit.page(100)
    texts = b"".join(one.text for one in page.entries)
    for hidden in (secret, key_secret, "CONTENT-OF-A-KEY", str(LONG_TOKEN), str(OWNER)):
        assert hidden.encode() not in texts


async def test_something_done_elsewhere_is_noted_by_whoever_does_it(store: Store) -> None:
    with acting(COMMAND):
        await store.audit.note(Change(Action.STORE_EXPORT_KEY))
    [entry] = await entries(store)
    assert (entry.actor, entry.action) == (COMMAND, "store.export-key")
    with pytest.raises(LookupError):
        await store.audit.note(Change(Action.STORE_EXPORT_KEY))


async def test_whoever_acts_in_one_task_is_not_taken_for_another(store: Store) -> None:
    async def one(actor: Actor) -> None:
        with acting(actor):
            await asyncio.sleep(0)
            await store.access.create_key(Role.ADMIN, actor.id, None)

    await asyncio.gather(*(one(actor) for actor in [OPERATOR, COMMAND] * 20), register(store, "a"))
    found = await entries(store)
    assert len(found) == 40
    assert all(entry.details["name"] == entry.actor.id for entry in found)


async def test_many_changes_at_once_form_one_chain_without_gaps_also_over_a_crash(stores: Stores) -> None:
    store = await stores.open()
    beside = await stores.open(server=False)
    with acting(OPERATOR):
        await asyncio.gather(
            *(one.access.create_session(OTHER_OWNER, None) for one in (store, beside) for _ in range(30))
        )
    assert await broken(store) == []
    store = await stores.crash()
    with acting(OPERATOR):
        await store.access.create_session(OTHER_OWNER, None)
    found = await entries(store)
    assert [entry.number for entry in found] == list(range(1, 62))
    assert await broken(store) == []
    [ends] = await store.audit.chains()
    assert ends.head.number == 61


async def test_pages_go_on_where_they_ended_and_other_cursors_are_refused(store: Store) -> None:
    with acting(OPERATOR):
        for number in range(7):
            await store.access.create_key(Role.ADMIN, str(number), None)
    first = await store.audit.page(4)
    with acting(OPERATOR):
        await store.access.create_key(Role.ADMIN, "meanwhile", None)
    assert first.next is not None
    second = await store.audit.page(4, start=first.next)
    assert [read(one).details["name"] for one in first.entries + second.entries] == list("6543210")
    assert second.next is None
    with pytest.raises(UnknownCursor):
        await store.audit.page(4, start=Cursor("x"))


async def prune(store: Store, days: int) -> None:
    retention = keep(DAY_MS, DAY_MS)
    while await store.prune(
        Retention(
            events_s=retention.events_s,
            dead_letters_s=retention.dead_letters_s,
            removals_s=retention.removals_s,
            audit_s=timedelta(days=days).total_seconds(),
        )
    ):
        pass


async def test_old_entries_are_pruned_from_the_front_and_the_rest_still_holds(store: Store, clocks: Clocks) -> None:
    with acting(OPERATOR):
        for number in range(5):
            await store.access.create_key(Role.ADMIN, str(number), None)
            clocks.pass_time(24 * 3600)
    before = [one.hash for one in reversed((await store.audit.page(10)).entries)]
    await prune(store, 3)
    assert [entry.number for entry in await entries(store)] == [3, 4, 5]
    assert await broken(store) == []
    [ends] = await store.audit.chains()
    assert (ends.anchor.number, ends.anchor.hash) == (2, before[1])


async def test_a_chain_of_which_all_was_pruned_goes_on_where_it_was(store: Store, clocks: Clocks) -> None:
    with acting(OPERATOR):
        await store.access.create_key(Role.ADMIN, "a", None)
    clocks.pass_time(10 * 24 * 3600)
    await prune(store, 3)
    assert await entries(store) == []
    assert await broken(store) == []
    with acting(OPERATOR):
        await store.access.create_key(Role.ADMIN, "b", None)
    assert [entry.number for entry in await entries(store)] == [2]
    assert await broken(store) == []


async def test_an_entry_that_waits_for_the_disk_is_in_the_group_of_its_change(store: Store, clocks: Clocks) -> None:
    """A job that fails beside others in one transaction takes its entry with it, and leaves theirs."""
    lane = {LANE: 10}
    with acting(OPERATOR):
        results = await asyncio.gather(
            store.access.create_key(Role.ADMIN, "a", None),
            store.jobs.finish("job_unknown"),
            store.access.create_key(Role.ADMIN, "b", None),
            store.schedule.claim_due(lane),
            return_exceptions=True,
        )
    assert isinstance(results[1], KeyError)
    assert [entry.details["name"] for entry in await entries(store)] == ["a", "b"]
    assert await broken(store) == []
