"""A store of any earlier version goes on where it was: its events, devices, removals, credentials and keys."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from collections.abc import AsyncIterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.contract.support import DAY_MS, LANE, OTHER_LANE, OWNER, SAME_KEY, attempt, claim, keep
from tests.sqlite import old_stores as old
from tests.sqlite.old_stores import APPLICATION, EARLIER, ODD_PROJECT, OLD_OWNER, made_by
from tests.sqlite.opened import opened
from tests.support.clocks import Clocks

from tocsin.domain.credentials import Credential
from tocsin.domain.devices import Address, Device, DeviceToken, Registration
from tocsin.domain.events import Event, EventId, UserId
from tocsin.providers.apns import address as apns_address
from tocsin.providers.apns import credentials as apns_credentials
from tocsin.providers.apns.address import ApnsAddress
from tocsin.providers.apns.credentials import ApnsCredential
from tocsin.providers.fcm import address as fcm_address
from tocsin.providers.fcm import credentials as fcm_credentials
from tocsin.providers.fcm.address import FcmAddress
from tocsin.providers.fcm.credentials import ServiceAccount
from tocsin.store.ports import EventIdConflict
from tocsin.store.records import (
    NO_LIMITS,
    Attempt,
    EventRecord,
    Item,
    Learned,
    Parked,
    Quarantine,
    Result,
    Settlement,
    State,
)
from tocsin.store.sqlite import housekeeping, migrations, schema
from tocsin.store.sqlite.connection import close, open_connection
from tocsin.store.sqlite.maintenance import backup, check, restore
from tocsin.store.sqlite.store import SqliteOptions, SqliteStore

BOTH_LANES = {LANE: 100, OTHER_LANE: 100}
LIFETIME_MS = 60_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "tocsin.db"


@pytest.fixture(params=EARLIER)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def migrated(version: str, path: Path) -> AsyncIterator[SqliteStore]:
    """The server's store on a file that `version` has left."""
    made_by(version, path)
    async with opened(path, server=True) as store:
        yield store


async def record_of(store: SqliteStore, id: str) -> EventRecord:
    record = await store.log.record(EventId(id))
    assert record is not None
    return record


async def devices_of(store: SqliteStore, owner: UserId) -> dict[str, Device]:
    devices = (await store.registry.devices_of([owner])).get(owner, [])
    return {device.key: device for device in devices}


def by_id(items: list[Item]) -> dict[str, Item]:
    return {item.event.id: item for item in items}


def event_of(id: str) -> Event:
    """The event that an earlier version has accepted, as it is now."""
    one = next(event for event in old.EVENTS if event.id == id)
    return Event(EventId(id), OWNER, one.message, 1, old.FAR_MS, one.body.encode())


# -- events ------------------------------------------------------------------------------------------------------------


async def test_every_event_is_where_it_was_with_its_attempts_and_what_waits(migrated: SqliteStore) -> None:
    states = {event.id: (await record_of(migrated, event.id)).state for event in old.EVENTS}
    assert states == {event.id: State(event.state) for event in old.EVENTS}
    assert (await migrated.queue.backlog()).events == 5
    waiting = [event for event in old.EVENTS if event.state < State.DONE]
    assert (await migrated.queue.backlog()).size_bytes == sum(len(event.body.encode()) for event in waiting)
    assert await record_of(migrated, "waits twice") == EventRecord(
        event_of("waits twice"),
        State.DELIVERING,
        [Attempt(2, "fcm:odd", "fcm:main", "retry", 503, "", "", 9)],
        [Parked(LANE, 6, 2, ("apns:all", "apns:topic")), Parked(OTHER_LANE, 7, 3, ("fcm:odd",))],
    )
    done = await record_of(migrated, "done")
    assert done.event.body == b""
    assert done.attempts == [Attempt(1, "apns:plain", "lane", "delivered", 200)]


async def test_what_was_not_finished_goes_on_with_its_content_as_bytes(migrated: SqliteStore) -> None:
    """Claimed in small numbers and in large ones: large contents are read one by one."""
    fresh = by_id(await migrated.queue.claim(1) + await migrated.queue.claim(10_000))
    assert {id: item.event for id, item in fresh.items()} == {
        id: event_of(id) for id in ("fresh", "fresh, chosen", "fresh call")
    }
    assert all((item.targets, item.lane, item.tries, item.round) == (None, None, 0, 0) for item in fresh.values())
    due = await migrated.schedule.claim_due({LANE: 10_000, OTHER_LANE: 10_000})
    parked = [(item.event, item.lane, item.tries, item.targets) for item in due]
    assert sorted(parked, key=lambda one: one[2]) == [
        (event_of("waits"), LANE, 1, ("apns:plain",)),
        (event_of("waits twice"), LANE, 2, ("apns:all", "apns:topic")),
        (event_of("waits twice"), OTHER_LANE, 3, ("fcm:odd",)),
    ]


async def test_what_goes_on_is_settled_and_parked_again(migrated: SqliteStore) -> None:
    now_ms = migrated.now_ms()
    items = await claim(migrated, 100, BOTH_LANES)
    assert len(items) == 6
    again = [Settlement(item, [], [Parked(LANE, now_ms, item.tries + 1, ("apns:plain",))]) for item in items]
    assert await migrated.queue.settle(again) == [True] * 6
    items = await migrated.schedule.claim_due(BOTH_LANES)
    assert {item.event.id: item.event.body for item in items} == {
        id: event_of(id).body for id in ("waits", "waits twice", "fresh", "fresh, chosen", "fresh call")
    }
    assert await migrated.queue.settle([Settlement(item, [attempt("apns:plain")], []) for item in items]) == [True] * 6
    assert (await migrated.queue.backlog()).events == 0
    for id in ("waits", "waits twice", "fresh", "fresh, chosen", "fresh call"):
        record = await record_of(migrated, id)
        assert (record.state, record.event.body) == (State.DONE, b"")
        assert record.attempts[-1] == attempt("apns:plain")


async def test_a_dead_letter_is_shown_and_replayed_as_bytes_to_the_devices_that_did_not_get_it(
    migrated: SqliteStore,
) -> None:
    page = await migrated.log.dead_letters(10)
    (letter,) = page.letters
    assert letter.event == event_of("dead")
    assert [one.device for one in letter.devices] == ["apns:plain", "fcm:odd"]
    assert await migrated.log.count_dead_letters() == 1
    assert await migrated.log.replay(None, LIFETIME_MS) == 1
    assert (await migrated.queue.backlog()).events == 6
    lanes = dict.fromkeys(await migrated.schedule.due(), 100)
    replayed = [item for item in await migrated.schedule.claim_due(lanes) if item.event.id == "dead"]
    assert sorted(item.targets or () for item in replayed) == [("apns:plain",), ("fcm:odd",)]
    assert {(item.round, item.tries, item.event.body) for item in replayed} == {(1, 0, old.BODY.encode())}
    refused = [attempt("apns:plain", Result.REFUSED), attempt("fcm:odd")]
    settlements = [Settlement(item, [one], []) for item, one in zip(replayed, refused, strict=True)]
    assert await migrated.queue.settle(settlements) == [True, True]
    record = await record_of(migrated, "dead")
    assert (record.state, record.round, record.event.body) == (State.DEAD, 1, old.BODY.encode())


async def test_a_dead_letter_is_discarded(migrated: SqliteStore) -> None:
    assert await migrated.log.discard([EventId("dead")]) == 1
    record = await record_of(migrated, "dead")
    assert (record.state, record.event.body) == (State.DONE, b"")


async def test_what_was_settled_before_is_as_old_as_its_last_receipt(
    version: str, path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or as its acceptance, where it has none."""
    monkeypatch.setattr(housekeeping, "_SWEEP_EVERY_S", 0.0)
    made_by(version, path)
    driver = sqlite3.connect(path)
    last = int(clocks.wall_s * 1000) - DAY_MS
    driver.execute("UPDATE event SET attempts = ? WHERE id = 'done'", (f'[5,"a","l","retry"],[{last},"a","l","ok"]',))
    driver.commit()
    driver.close()
    options = SqliteOptions(
        max_events=100, max_bytes=1_000_000, lease_s=30, wall_clock=clocks.wall, monotonic=clocks.monotonic
    )
    async with opened(path, options, server=True) as store:
        while await store.prune(keep(2 * 86400, 1, 2 * 86400)):
            pass
        known = {event.id for event in old.EVENTS if await store.log.record(EventId(event.id)) is not None}
        assert {event.id for event in old.EVENTS} - known == {"done, chosen", "dead"}
        clocks.pass_time(86401)
        while await store.prune(keep(2 * 86400, 1, 2 * 86400)):
            pass
        assert await store.log.record(EventId("done")) is None


@pytest.mark.parametrize("id", ["done, chosen", "fresh", "fresh, chosen", "waits", "waits twice", "dead"])
async def test_an_id_is_recognised_by_its_digest_or_by_the_content_that_is_kept(migrated: SqliteStore, id: str) -> None:
    before = await migrated.queue.backlog()
    await migrated.queue.append([event_of(id)])
    assert await migrated.queue.backlog() == before
    with pytest.raises(EventIdConflict):
        await migrated.queue.append([Event(EventId(id), OWNER, "fax_new", 1, old.FAR_MS, b"{}")])
    assert await migrated.queue.backlog() == before
    assert len(await claim(migrated, 100, BOTH_LANES)) == 6


async def test_an_id_whose_content_nobody_knows_any_more_is_not_used_again(migrated: SqliteStore) -> None:
    with pytest.raises(EventIdConflict):
        await migrated.queue.append([event_of("done")])


# -- devices -----------------------------------------------------------------------------------------------------------


async def test_devices_keep_their_order_and_their_time_of_registration_is_their_generation(
    migrated: SqliteStore,
) -> None:
    devices = await migrated.registry.devices_of([OWNER, *SAME_KEY])
    found = [device for owner in devices.values() for device in owner]
    assert [(one.owner, one.key, one.registered_us, one.generation, one.last_success_ms) for one in found] == [
        (one.owner, f"{one.system}:{one.token}", one.registered_us, one.registered_us, one.last_success_ms)
        for one in old.REGISTERED
    ]


async def test_every_address_is_one_text_that_its_provider_reads(migrated: SqliteStore) -> None:
    devices = await devices_of(migrated, OWNER)
    assert [devices[key].address for key in ("apns:plain", "apns:all", "fcm:plain")] == [
        f"application={APPLICATION}",
        f"application={APPLICATION}&sandbox=true&topic=de.cospace.app.voip&learned_sandbox=false",
        "",
    ]
    read = {
        key: (apns_address if device.provider == "apns" else fcm_address).parse(device.address)
        for key, device in devices.items()
    }
    assert read == {
        "apns:plain": ApnsAddress(APPLICATION),
        "apns:all": ApnsAddress(APPLICATION, True, "de.cospace.app.voip", False),
        "apns:sandbox": ApnsAddress(APPLICATION, False, None, True),
        "apns:topic": ApnsAddress(APPLICATION, False, "de.cospace.app.voip"),
        "apns:odd": ApnsAddress("39JSDKGJ38.a&b=c %20 Grüße", False, "t&o=p %+"),
        "fcm:plain": FcmAddress(),
        "fcm:project": FcmAddress("main"),
        "fcm:odd": FcmAddress(ODD_PROJECT, "fid"),
        "fcm:field": FcmAddress(None, "token"),
    }
    # Devices that are reached alike have the same address, character by character.
    assert {key: parsed.text() for key, parsed in read.items()} == {key: one.address for key, one in devices.items()}


async def test_two_owners_whose_keys_are_the_same_keep_their_own_devices(migrated: SqliteStore) -> None:
    devices = await migrated.registry.devices_of(SAME_KEY)
    registered = {owner: [(one.key, one.registered_us) for one in own] for owner, own in devices.items()}
    assert registered == {SAME_KEY[0]: [("apns:c", 8), ("fcm:c", 9)], SAME_KEY[1]: [("apns:c", 7)]}
    assert await migrated.registry.delete(SAME_KEY[0], "apns", DeviceToken("c"))
    devices = await migrated.registry.devices_of(SAME_KEY)
    assert {owner: [one.key for one in own] for owner, own in devices.items()} == {
        SAME_KEY[0]: ["fcm:c"],
        SAME_KEY[1]: ["apns:c"],
    }


async def test_a_device_is_registered_again_learned_of_and_found(migrated: SqliteStore) -> None:
    registry = migrated.registry
    before = await devices_of(migrated, OWNER)
    await registry.learn([Learned(before["fcm:plain"], FcmAddress("main", "fid").text(), 77)])
    learned = (await devices_of(migrated, OWNER))["fcm:plain"]
    assert (fcm_address.parse(learned.address), learned.last_success_ms) == (FcmAddress("main", "fid"), 77)
    await registry.add(Registration(OWNER, "apns", DeviceToken("all"), Address("application=x")), 100)
    after = await devices_of(migrated, OWNER)
    assert after.keys() == before.keys()
    assert after["apns:all"].generation != before["apns:all"].generation
    assert list(after)[-1] == "apns:all"
    assert sorted(one.owner for one in await registry.find(DeviceToken("c"))) == sorted([*SAME_KEY, SAME_KEY[0]])


# -- what is gone ------------------------------------------------------------------------------------------------------


async def test_the_history_tells_of_removed_devices_as_they_were(migrated: SqliteStore) -> None:
    history = await migrated.registry.history(owner=OLD_OWNER)
    assert [(one.device.key, one.account, one.reason, one.quarantined) for one in history] == [
        (f"{one.device.system}:{one.device.token}", one.application, one.reason, one.quarantined) for one in old.REMOVED
    ]
    assert {one.removed_ms for one in history} == {old.REMOVED_MS}
    first, second = history[0].device, history[1].device
    assert first == Device(
        OLD_OWNER,
        "apns",
        DeviceToken("gone"),
        ApnsAddress(APPLICATION, True, "de.cospace.app.voip", False).text(),
        21,
        21,
        99,
    )
    assert fcm_address.parse(second.address) == FcmAddress(ODD_PROJECT, "fid")


async def test_a_removed_token_is_restored_as_it_was_registered(migrated: SqliteStore) -> None:
    for provider in ("apns", "fcm"):
        assert await migrated.registry.restore(provider, DeviceToken("gone"), 100) == 1
    back = await devices_of(migrated, OLD_OWNER)
    assert list(back) == ["apns:gone", "fcm:gone"]
    assert apns_address.parse(back["apns:gone"].address) == ApnsAddress(APPLICATION, True, "de.cospace.app.voip", False)
    assert fcm_address.parse(back["fcm:gone"].address) == FcmAddress(ODD_PROJECT, "fid")
    assert [one.registered_us for one in back.values()] == [21, 22]
    for provider in ("apns", "fcm"):
        assert await migrated.registry.restore(provider, DeviceToken("deleted"), 100) == 0


@pytest.mark.parametrize(
    ("account", "keys"), [(APPLICATION, ["apns:held", "apns:held too"]), (ODD_PROJECT, ["fcm:held"])]
)
async def test_what_is_in_quarantine_is_released_by_its_account(
    migrated: SqliteStore, account: str, keys: list[str]
) -> None:
    assert await migrated.registry.quarantine() == [
        Quarantine("apns", APPLICATION, 2, old.REMOVED_MS),
        Quarantine("fcm", ODD_PROJECT, 1, old.REMOVED_MS),
    ]
    assert await migrated.registry.release_quarantine(account, 100) == len(keys)
    assert list(await devices_of(migrated, OLD_OWNER)) == keys
    assert account not in {one.account for one in await migrated.registry.quarantine()}


async def test_what_is_in_quarantine_is_purged_by_its_account(migrated: SqliteStore) -> None:
    assert await migrated.registry.purge_quarantine(ODD_PROJECT) == 1
    assert [one.account for one in await migrated.registry.quarantine()] == [APPLICATION]


# -- who may call, and with which credentials --------------------------------------------------------------------------


async def test_applications_are_credentials_that_apns_reads(migrated: SqliteStore) -> None:
    found = await migrated.credentials.of("apns")
    assert [(one.account, apns_credentials.read_stored(one), one.changed_ms) for one in found] == [
        (old.APPLICATION, ApnsCredential(old.KEY_PEM, "ABC123DEFG"), 31),
        (old.OTHER_APPLICATION, ApnsCredential(certificate_pem=old.CERTIFICATE_PEM), 32),
        (old.THIRD_APPLICATION, ApnsCredential(), 33),
    ]
    assert [apns_credentials.read_stored(one).kind for one in found] == ["key", "certificate", "none"]
    assert [one.account for one in found if one.default] == [old.APPLICATION]


async def test_projects_are_credentials_that_fcm_reads_and_the_default_stays(migrated: SqliteStore) -> None:
    found = await migrated.credentials.of("fcm")
    assert [(one.account, fcm_credentials.read_stored(one), one.default, one.changed_ms) for one in found] == [
        (ODD_PROJECT, ServiceAccount("ö@example.com", "k\n", "https://t", "p"), True, 41),
        ("main", ServiceAccount(project_id="other"), False, 42),
    ]
    assert [one.content.decode() for one in found] == [account for _, account, *_ in old.PROJECTS]


async def test_a_migrated_credential_is_replaced_and_removed_like_a_new_one(migrated: SqliteStore) -> None:
    credentials = migrated.credentials
    await credentials.put(Credential("fcm", "main", b"{}", default=True, changed_ms=5))
    assert [(one.account, one.default) for one in await credentials.of("fcm")] == [(ODD_PROJECT, False), ("main", True)]
    assert await credentials.remove("fcm", ODD_PROJECT)
    assert [one.account for one in await credentials.of("fcm")] == ["main"]


async def test_sessions_and_keys_are_kept(migrated: SqliteStore) -> None:
    assert [(one.id, one.owner) for one in await migrated.access.sessions()] == [("ses_1", OWNER)]
    assert [(one.id, one.role, one.limits) for one in await migrated.access.keys()] == [("key_1", "admin", NO_LIMITS)]


# -- the file ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_wrong_with_a_migrated_file(migrated: SqliteStore, path: Path) -> None:
    assert check(path) == []


async def test_a_migrated_file_is_not_migrated_again(version: str, path: Path) -> None:
    made_by(version, path)

    def rows(driver: sqlite3.Connection) -> list[list[object]]:
        return [driver.execute(f"SELECT * FROM {table}").fetchall() for table in ("device", "removal", "credential")]

    contents = []
    for server in (False, True, True):
        async with opened(path, server=server) as store:
            contents.append(await store.database.read(rows))
    assert contents[0] == contents[1] == contents[2]


async def test_a_backup_of_an_earlier_version_is_restored_and_brought_up_to_date(
    version: str, path: Path, tmp_path: Path
) -> None:
    made_by(version, path)
    backup(path, tmp_path / "copy.db")
    restore(tmp_path / "new" / "tocsin.db", tmp_path / "copy.db")
    async with opened(tmp_path / "new" / "tocsin.db", server=True) as store:
        assert len(await devices_of(store, OWNER)) == 9
        assert len(await claim(store, 100, BOTH_LANES)) == 6


def test_the_earlier_versions_are_all_but_the_newest() -> None:
    scripts = ScriptDirectory.from_config(migrations._config())
    known = sorted(script.revision for script in scripts.walk_revisions())
    assert known == [*EARLIER, migrations.head()]
    assert migrations.head() == scripts.get_current_head()


@pytest.mark.parametrize("version", [None, *EARLIER])
async def test_the_migrations_lead_to_the_schema_that_the_code_knows(version: str | None, path: Path) -> None:
    if version is not None:
        made_by(version, path)
    async with opened(path):
        pass
    connection = open_connection(path)
    assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    close(connection)


async def _open_once(path: Path) -> None:
    async with opened(path):
        pass


def _open_at_the_same_time(path: str, start: Barrier, results: multiprocessing.SimpleQueue[str]) -> None:
    start.wait()
    try:
        asyncio.run(_open_once(Path(path)))
        results.put("opened")
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.parametrize("version", [None, *EARLIER])
def test_processes_that_start_at_once_migrate_once(version: str | None, path: Path) -> None:
    if version is not None:
        made_by(version, path)
    fork = multiprocessing.get_context("fork")
    start, results = fork.Barrier(4), fork.SimpleQueue()
    children = [fork.Process(target=_open_at_the_same_time, args=(str(path), start, results)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [results.get() for _ in children] == ["opened"] * 4
